// The kernels of norm.rs: group normalisation with its affine map, the time's modulation and SiLU.
//
// x is (images, rows, channels), a group `channels / groups` consecutive channels. A block takes a chunk, `span` rows of an image, so that
// everything it reads of x is one stretch of memory; grid (chunks, images) with chunks = ceil(rows / span), block 256. A thread owns a column
// of V channels, 16 bytes, in every lanes-th row of the chunk: what belongs to a channel stays in its registers, and a warp reads 512 bytes
// in a row. Channels that do not come in packs are columns of one. More than 256 columns are gone through in sections of 256.
//
// Statistics pass from kernel to kernel by chunk, merged in a fixed order by whoever needs them: no atomics and no launch in between.

// Blocks that a multiprocessor has to find registers for: three have 768 threads with two to four packs each under way.
constexpr int NORM_RESIDENT = PRECISION == 64 ? 2 : 3;

// Where this thread stands in a section of at most 256 columns of V channels.
template <int V> struct Place {
    // Columns in the section, rows that the block reads at once, this thread's row among them (`lanes` or more: none).
    int columns, lanes, lane;
    // First channel of the section, and of this thread in the section.
    int first, mine;

    __device__ Place(int section, int channels) {
        columns = least(BLOCK, channels / V - section);
        lanes = BLOCK / columns;
        lane = int(threadIdx.x) / columns;
        first = section * V;
        mine = (int(threadIdx.x) - lane * columns) * V;
    }
    __device__ bool idle() const { return lane >= lanes; }
    __device__ int channels() const { return columns * V; }
};

// Lanes of a warp for each of `groups` groups, so that the block's 256 threads are shared out: a power of two, at most 32.
__device__ inline int team_for(int groups) {
    int team = 32;
    while (team > 1 && team * groups > BLOCK) team /= 2;
    return team;
}

// A shared array of U pairs for each thread, (U, 256) so that neighbours write side by side; the next row begins 16 / U banks of two words
// further on, so that those who read the U of one thread after those of another do too.
constexpr int BANKS = 128 / int(sizeof(Pair));
template <int U> struct Seen {
    Pair at[U * BLOCK + BANKS];

    // Unit u of the section, U to a column, as seen by row `lane` of the block.
    __device__ Pair& operator()(int lane, int columns, int u) { return at[u % U * (BLOCK + BANKS / U) + lane * columns + u / U]; }
};

// Reads four rows at a time, counted from the first value of each channel so that nothing is rounded at the size of a mean far from 0, and
// merges their mean and squares into the channel's (Chan's formula), then PART channels into a unit; a group is whole units. The block then
// merges what its threads have seen by their deviations from the group's mean. No sum of squares is ever a difference of large ones.
template <int V, int PART> __device__ inline void norm_partial_by(const S* x, Pair* partial, int rows, int channels, int groups, int span) {
    constexpr int U = V / PART;
    __shared__ Seen<U> seen;
    // In units.
    int width = channels / groups / PART;
    int from = blockIdx.x * span, count = least(span, rows - from);
    x += ((long)blockIdx.y * rows + from) * channels;
    partial += ((long)blockIdx.y * gridDim.x + blockIdx.x) * groups;
    for (int section = 0; section < channels / V; section += BLOCK) {
        Place<V> at(section, channels);
        if (!at.idle()) {
            const S* p = x + (long)at.lane * channels + at.first + at.mine;
            long step = (long)at.lanes * channels;
            int r = at.lane;
            A n = 0, mean[V] = {}, square[V] = {};
            Vec<V> origin = {};
            if (r < count) origin = read<V>(p);
            for (; r + 3 * at.lanes < count; r += 4 * at.lanes, p += 4 * step) {
                auto raw0 = read_raw<V>(p), raw1 = read_raw<V>(p + step), raw2 = read_raw<V>(p + 2 * step), raw3 = read_raw<V>(p + 3 * step);
                auto a = unpacked(raw0), b = unpacked(raw1), c = unpacked(raw2), d = unpacked(raw3);
                A share = A(4) / (n + A(4)), weight = n * share;
                n += A(4);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    A da = a.x[j] - origin.x[j], db = b.x[j] - origin.x[j], dc = c.x[j] - origin.x[j], dd = d.x[j] - origin.x[j];
                    A m = A(0.25) * ((da + db) + (dc + dd)), delta = m - mean[j];
                    da -= m, db -= m, dc -= m, dd -= m;
                    mean[j] += delta * share;
                    square[j] += ((da * da + db * db) + (dc * dc + dd * dd)) + delta * delta * weight;
                }
            }
            for (; r < count; r += at.lanes, p += step) {
                auto a = read<V>(p);
                n += A(1);
                A share = A(1) / n;
#pragma unroll
                for (int j = 0; j < V; j++) {
                    A da = a.x[j] - origin.x[j], delta = da - mean[j];
                    mean[j] += delta * share;
                    square[j] += delta * (da - mean[j]);
                }
            }
#pragma unroll
            for (int u = 0; u < U; u++) {
                A middle = 0, squares = square[u * PART], first = origin.x[u * PART] + mean[u * PART], d[PART];
                d[0] = 0;
#pragma unroll
                for (int j = 1; j < PART; j++) {
                    d[j] = (origin.x[u * PART + j] + mean[u * PART + j]) - first;
                    middle += d[j];
                    squares += square[u * PART + j];
                }
                middle *= A(1) / A(PART);
                A spread = 0;
#pragma unroll
                for (int j = 0; j < PART; j++) spread += (d[j] - middle) * (d[j] - middle);
                seen(at.lane, at.columns, at.mine / PART + u) = {first + middle, squares + n * spread};
            }
        }
        __syncthreads();
        // Rows that lane l has seen: one more for the first `extra` lanes. Lanes behind the last row have seen none.
        int each_lane = count / at.lanes, extra = count - each_lane * at.lanes, lanes = least(at.lanes, count);
        int first = at.first / PART, units = at.columns * U, first_group = first / width, behind = (first + units - 1) / width + 1;
        int team = team_for(behind - first_group), teams = BLOCK / team, member = int(threadIdx.x) % team;
        for (int base = first_group; base < behind; base += teams) {
            int g = base + int(threadIdx.x) / team;
            bool valid = g < behind;
            // This group's units in the section.
            int begin = valid ? g * width - first : 0, end = valid ? least(begin + width, units) : 0;
            bool continued = begin < 0;
            begin = continued ? 0 : begin;
            int wide = end - begin;
            A origin = valid ? seen(0, at.columns, begin).first : A(0), sum = 0;
            for (int lane = 0, k = member; valid; k += team) {
                while (k >= wide) k -= wide, lane++;
                if (lane >= lanes) break;
                sum += A(each_lane + (lane < extra)) * (seen(lane, at.columns, begin + k).first - origin);
            }
            A total = A(count) * A(wide), middle = team_sum(sum, team) / total, squares = 0;
            for (int lane = 0, k = member; valid; k += team) {
                while (k >= wide) k -= wide, lane++;
                if (lane >= lanes) break;
                Pair part = seen(lane, at.columns, begin + k);
                A d = part.first - origin - middle;
                squares += part.second + A(each_lane + (lane < extra)) * A(PART) * d * d;
            }
            squares = team_sum(squares, team);
            if (valid && member == 0) {
                middle += origin;
                if (continued) {
                    // The section before has left its part of the group.
                    Pair before = partial[g];
                    A n = A(count) * A(first - g * width), delta = middle - before.first, share = total / (n + total);
                    middle = before.first + delta * share;
                    squares += before.second + delta * delta * n * A(PART) * share;
                }
                partial[g] = {middle, squares};
            }
        }
        // The shared memory, and what a section leaves for the next.
        __syncthreads();
    }
}

// partial (images, chunks, groups, 2) = mean and sum of squared deviations of the chunk's part of each group. Reads images rows channels.
extern "C" __global__ void __launch_bounds__(BLOCK, NORM_RESIDENT)
norm_partial(const S* x, A* partial, int rows, int channels, int groups, int span) {
    constexpr int PART = PACK < 4 ? PACK : 4;
    bool packs = channels % PACK == 0 && aligned(x);
    if (packs && channels / groups % PART == 0) norm_partial_by<PACK, PART>(x, (Pair*)partial, rows, channels, groups, span);
    else if (packs) norm_partial_by<PACK, 1>(x, (Pair*)partial, rows, channels, groups, span);
    else norm_partial_by<1, 1>(x, (Pair*)partial, rows, channels, groups, span);
}

// 1 + scale of a channel, for the modulation (2 channels) of one image.
__device__ inline A modulation_scale(const S* modulation, int k) { return modulation ? A(1) + load(modulation[k]) : A(1); }

// What a thread's V channels from k on are scaled and shifted by: first gamma and beta, then scale and shift.
template <int V> struct Parameters {
    Vec<V> gamma, beta, scale, shift;

    __device__ Parameters(const A* gamma_of, const A* beta_of, const S* modulation, int channels, int k) {
        // In packs: 32 threads that read numbers a pack apart would take 8 accesses of the cache for each number.
        gamma = read_parameters<V>(gamma_of + k);
        beta = read_parameters<V>(beta_of + k);
        // With channels in packs all images' scales and shifts are aligned where the first are.
        if (modulation && (V == 1 || aligned(modulation))) {
            scale = read<V>(modulation + k);
            shift = read<V>(modulation + channels + k);
#pragma unroll
            for (int j = 0; j < V; j++) scale.x[j] += A(1);
        } else {
#pragma unroll
            for (int j = 0; j < V; j++) {
                scale.x[j] = modulation_scale(modulation, k + j);
                shift.x[j] = modulation ? load(modulation[channels + k + j]) : A(0);
            }
        }
    }
    // Channel j's map before the activation, z = first x + second.
    __device__ Pair map(int j, Pair stats) const {
        A slope = stats.second * gamma.x[j];
        return {slope * scale.x[j], (beta.x[j] - stats.first * slope) * scale.x[j] + shift.x[j]};
    }
};

// Calls body(j, group) for a thread's V channels from `channel` on, the group counted along instead of divided for.
template <int V, class Body> __device__ inline void each_channel(int channel, int width, Body body) {
    int group = channel / width, within = channel - group * width;
#pragma unroll
    for (int j = 0; j < V; j++) {
        body(j, group);
        if (++within == width) within = 0, group++;
    }
}

template <int V>
__device__ inline void norm_forward_by(const S* x, const A* gamma, const A* beta, const S* modulation, const Pair* partial, Pair* stats, S* out,
                                       int rows, int channels, int groups, int span, A eps, int silu) {
    __shared__ Pair merged[BLOCK * V];
    int from = blockIdx.x * span, count = least(span, rows - from), width = channels / groups, chunks = gridDim.x;
    long image = blockIdx.y;
    x += (image * rows + from) * channels;
    out += (image * rows + from) * channels;
    partial += image * chunks * groups;
    stats += image * groups;
    if (modulation) modulation += image * 2 * channels;
    for (int section = 0; section < channels / V; section += BLOCK) {
        Place<V> at(section, channels);
        Parameters<V> parameters(gamma, beta, modulation, channels, at.first + at.mine);
        int first_group = at.first / width, behind = (at.first + at.channels() - 1) / width + 1;
        int team = team_for(behind - first_group), teams = BLOCK / team, member = int(threadIdx.x) % team;
        for (int base = first_group; base < behind; base += teams) {
            int g = base + int(threadIdx.x) / team;
            bool valid = g < behind;
            A origin = valid ? partial[g].first : A(0), sum = 0, squares = 0;
            for (int c = member; valid && c < chunks; c += team)
                sum += A(least(span, rows - c * span)) * (partial[(long)c * groups + g].first - origin);
            A middle = team_sum(sum, team) / A(rows);
            for (int c = member; valid && c < chunks; c += team) {
                Pair part = partial[(long)c * groups + g];
                A d = part.first - origin - middle;
                squares += part.second + A(least(span, rows - c * span)) * A(width) * d * d;
            }
            squares = team_sum(squares, team);
            if (valid && member == 0) {
                Pair result = {origin + middle, A(1) / square_root(squares / (A(rows) * A(width)) + eps)};
                merged[g - first_group] = result;
                if (blockIdx.x == 0) stats[g] = result;
            }
        }
        __syncthreads();
        if (!at.idle()) {
            A a[V], b[V];
            each_channel<V>(at.first + at.mine, width, [&](int j, int group) {
                Pair z = parameters.map(j, merged[group - first_group]);
                a[j] = z.first;
                b[j] = z.second;
            });
            auto map = [&](const Raw<V>& raw) {
                auto v = unpacked(raw);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    A z = a[j] * v.x[j] + b[j];
                    v.x[j] = silu ? silu_of(z) : z;
                }
                return v;
            };
            long place = (long)at.lane * channels + at.first + at.mine, step = (long)at.lanes * channels;
            int r = at.lane;
            for (; r + 3 * at.lanes < count; r += 4 * at.lanes, place += 4 * step) {
                const S* p = x + place;
                auto raw0 = read_raw<V>(p), raw1 = read_raw<V>(p + step), raw2 = read_raw<V>(p + 2 * step), raw3 = read_raw<V>(p + 3 * step);
                write(out + place, map(raw0));
                write(out + place + step, map(raw1));
                write(out + place + 2 * step, map(raw2));
                write(out + place + 3 * step, map(raw3));
            }
            for (; r < count; r += at.lanes, place += step) write(out + place, map(read_raw<V>(x + place)));
        }
        __syncthreads();
    }
}

// out = act(((x - mean) / deviation gamma + beta) (1 + scale) + shift), act SiLU where silu; stats (images, groups, 2) = mean and
// 1 / sqrt(var + eps), written by the first chunk of each image.
//
// modulation, (images, 2 channels), scales then shifts, may be null; partial as norm_partial leaves it, merged by every block for itself:
// chunks groups pairs, from the second cache. Reads and writes images rows channels.
extern "C" __global__ void __launch_bounds__(BLOCK, NORM_RESIDENT)
norm_forward(const S* x, const A* gamma, const A* beta, const S* modulation, const A* partial, A* stats, S* out, int rows, int channels,
             int groups, int span, A eps, int silu) {
    if (channels % PACK == 0 && aligned(x) && aligned(out))
        norm_forward_by<PACK>(x, gamma, beta, modulation, (const Pair*)partial, (Pair*)stats, out, rows, channels, groups, span, eps, silu);
    else norm_forward_by<1>(x, gamma, beta, modulation, (const Pair*)partial, (Pair*)stats, out, rows, channels, groups, span, eps, silu);
}

template <int V>
__device__ inline void norm_backward_partial_by(const S* x, const S* dout, const A* gamma, const A* beta, const S* modulation,
                                                const Pair* stats, Pair* sums, int rows, int channels, int groups, int span, int silu) {
    __shared__ Seen<V> seen;
    int from = blockIdx.x * span, count = least(span, rows - from), width = channels / groups;
    long image = blockIdx.y;
    x += (image * rows + from) * channels;
    dout += (image * rows + from) * channels;
    stats += image * groups;
    sums += (image * gridDim.x + blockIdx.x) * channels;
    if (modulation) modulation += image * 2 * channels;
    for (int section = 0; section < channels / V; section += BLOCK) {
        Place<V> at(section, channels);
        if (!at.idle()) {
            Parameters<V> parameters(gamma, beta, modulation, channels, at.first + at.mine);
            // The deviation divides once, at the end.
            A mean[V], a[V], b[V], s1[V] = {}, s2[V] = {};
            each_channel<V>(at.first + at.mine, width, [&](int j, int group) {
                Pair stat = stats[group], z = parameters.map(j, stat);
                mean[j] = stat.first;
                a[j] = z.first;
                b[j] = z.second;
            });
            auto take = [&](const Raw<V>& raw_x, const Raw<V>& raw_d) {
                auto v = unpacked(raw_x), d = unpacked(raw_d);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    A e = silu ? d.x[j] * silu_slope(a[j] * v.x[j] + b[j]) : d.x[j];
                    s1[j] += e;
                    s2[j] += e * (v.x[j] - mean[j]);
                }
            };
            long place = (long)at.lane * channels + at.first + at.mine, step = (long)at.lanes * channels;
            int r = at.lane;
            for (; r + at.lanes < count; r += 2 * at.lanes, place += 2 * step) {
                auto x0 = read_raw<V>(x + place), x1 = read_raw<V>(x + place + step);
                auto d0 = read_raw<V>(dout + place), d1 = read_raw<V>(dout + place + step);
                take(x0, d0);
                take(x1, d1);
            }
            if (r < count) take(read_raw<V>(x + place), read_raw<V>(dout + place));
#pragma unroll
            for (int j = 0; j < V; j++) seen(at.lane, at.columns, at.mine + j) = {s1[j], s2[j]};
        }
        __syncthreads();
        for (int k = threadIdx.x; k < at.channels(); k += BLOCK) {
            A s1 = 0, s2 = 0;
            for (int lane = 0; lane < at.lanes; lane++) {
                Pair part = seen(lane, at.columns, k);
                s1 += part.first;
                s2 += part.second;
            }
            sums[at.first + k] = {s1, s2 * stats[(at.first + k) / width].second};
        }
        __syncthreads();
    }
}

// sums (images, chunks, channels, 2): sum of d and of d xhat over the chunk's rows, with d the gradient before the activation and xhat the
// normalised input. Reads 2 images rows channels.
extern "C" __global__ void __launch_bounds__(BLOCK, NORM_RESIDENT)
norm_backward_partial(const S* x, const S* dout, const A* gamma, const A* beta, const S* modulation, const A* stats, A* sums, int rows,
                      int channels, int groups, int span, int silu) {
    if (channels % PACK == 0 && aligned(x) && aligned(dout))
        norm_backward_partial_by<PACK>(x, dout, gamma, beta, modulation, (const Pair*)stats, (Pair*)sums, rows, channels, groups, span, silu);
    else norm_backward_partial_by<1>(x, dout, gamma, beta, modulation, (const Pair*)stats, (Pair*)sums, rows, channels, groups, span, silu);
}

template <int V>
__device__ inline void norm_backward_input_by(const S* x, const S* dout, const A* gamma, const A* beta, const S* modulation,
                                              const Pair* stats, const Pair* sums, S* dx, int keep, int rows, int channels, int groups,
                                              int span, int silu) {
    // Means over each group of e and of e xhat, e = d (1 + scale) gamma.
    __shared__ Pair means[BLOCK * V];
    __shared__ A scratch[32];
    int from = blockIdx.x * span, count = least(span, rows - from), width = channels / groups, chunks = gridDim.x;
    long image = blockIdx.y;
    x += (image * rows + from) * channels;
    dout += (image * rows + from) * channels;
    dx += (image * rows + from) * channels;
    stats += image * groups;
    sums += image * chunks * channels;
    if (modulation) modulation += image * 2 * channels;
    for (int section = 0; section < channels / V; section += BLOCK) {
        Place<V> at(section, channels);
        Parameters<V> parameters(gamma, beta, modulation, channels, at.first + at.mine);
        int first_group = at.first / width, behind = (at.first + at.channels() - 1) / width + 1;
        // Few groups are summed by the whole block one after the other, many by a team each.
        bool whole = (behind - first_group) * 32 < BLOCK;
        int team = whole ? BLOCK : team_for(behind - first_group), teams = BLOCK / team, member = int(threadIdx.x) % team;
        for (int base = first_group; base < behind; base += teams) {
            int g = base + int(threadIdx.x) / team;
            bool valid = g < behind;
            A m1 = 0, m2 = 0;
            for (int c = 0, k = member; valid && c < chunks; k += team) {
                while (k >= width) k -= width, c++;
                if (c >= chunks) break;
                int channel = g * width + k;
                Pair part = sums[(long)c * channels + channel];
                A e = gamma[channel] * modulation_scale(modulation, channel);
                m1 += e * part.first;
                m2 += e * part.second;
            }
            m1 = whole ? block_sum(m1, scratch) : team_sum(m1, team);
            m2 = whole ? block_sum(m2, scratch) : team_sum(m2, team);
            A total = A(rows) * A(width);
            if (valid && member == 0) means[g - first_group] = {m1 / total, m2 / total};
        }
        __syncthreads();
        if (!at.idle()) {
            // z = a x + b and dx = p d + q x + r.
            A a[V], b[V], p[V], q[V], r[V];
            each_channel<V>(at.first + at.mine, width, [&](int j, int group) {
                Pair stat = stats[group], z = parameters.map(j, stat), m = means[group - first_group];
                a[j] = z.first;
                b[j] = z.second;
                p[j] = z.first;
                q[j] = -stat.second * stat.second * m.second;
                r[j] = -stat.second * m.first - q[j] * stat.first;
            });
            auto map = [&](const Raw<V>& raw_x, const Raw<V>& raw_d) {
                auto v = unpacked(raw_x), d = unpacked(raw_d);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    A e = silu ? d.x[j] * silu_slope(a[j] * v.x[j] + b[j]) : d.x[j];
                    v.x[j] = p[j] * e + (q[j] * v.x[j] + r[j]);
                }
                return v;
            };
            long place = (long)at.lane * channels + at.first + at.mine, step = (long)at.lanes * channels;
            int row = at.lane;
            for (; row + at.lanes < count; row += 2 * at.lanes, place += 2 * step) {
                auto x0 = read_raw<V>(x + place), x1 = read_raw<V>(x + place + step);
                auto d0 = read_raw<V>(dout + place), d1 = read_raw<V>(dout + place + step);
                write_kept(dx + place, map(x0, d0), keep);
                write_kept(dx + place + step, map(x1, d1), keep);
            }
            if (row < count) write_kept(dx + place, map(read_raw<V>(x + place), read_raw<V>(dout + place)), keep);
        }
        __syncthreads();
    }
}

// dx (+)= (e - mean_g(e) - xhat mean_g(e xhat)) / deviation, e = d (1 + scale) gamma. The sums of the chunks are merged by every block for
// itself, from the second cache. Reads 2 and writes 1 of images rows channels; keeping reads one more.
extern "C" __global__ void __launch_bounds__(BLOCK, NORM_RESIDENT)
norm_backward_input(const S* x, const S* dout, const A* gamma, const A* beta, const S* modulation, const A* stats, const A* sums, S* dx,
                    int keep, int rows, int channels, int groups, int span, int silu) {
    if (channels % PACK == 0 && aligned(x) && aligned(dout) && aligned(dx))
        norm_backward_input_by<PACK>(x, dout, gamma, beta, modulation, (const Pair*)stats, (const Pair*)sums, dx, keep, rows, channels, groups,
                                     span, silu);
    else
        norm_backward_input_by<1>(x, dout, gamma, beta, modulation, (const Pair*)stats, (const Pair*)sums, dx, keep, rows, channels, groups,
                                  span, silu);
}

// The gradients of gamma, beta and of the modulation, (images, 2 channels), null where there is none:
// dbeta = sum (1 + scale) d, dgamma = sum (1 + scale) d xhat, dscale (+)= d (gamma xhat + beta), dshift (+)= d, summed over pixels.
//
// Grid (ceil(channels / 32)), block (32, 1 to 32): a warp reads 32 channels of one image, the block's warps take turns at the images, and
// their sums are added in order. Reads images chunks channels pairs.
extern "C" __global__ void __launch_bounds__(1024, 1)
norm_backward_params(const A* gamma, const A* beta, const S* modulation, const A* sums, A* dgamma, A* dbeta, S* dmodulation,
                     int keep_modulation, int images, int chunks, int channels) {
    __shared__ Pair seen[32][32];
    int k = blockIdx.x * 32 + threadIdx.x;
    Pair total = {0, 0};
    for (long image = threadIdx.y; image < images && k < channels; image += blockDim.y) {
        const Pair* part = (const Pair*)sums + image * chunks * channels + k;
        Pair s = {0, 0};
#pragma unroll 4
        for (int c = 0; c < chunks; c++) {
            Pair next = part[(long)c * channels];
            s.first += next.first;
            s.second += next.second;
        }
        A scale = modulation ? modulation_scale(modulation + image * 2 * channels, k) : A(1);
        total.first += scale * s.first;
        total.second += scale * s.second;
        if (dmodulation) {
            S* d = dmodulation + image * 2 * channels;
            A dscale = gamma[k] * s.second + beta[k] * s.first, dshift = s.first;
            d[k] = store(keep_modulation ? load(d[k]) + dscale : dscale);
            d[channels + k] = store(keep_modulation ? load(d[channels + k]) + dshift : dshift);
        }
    }
    seen[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y != 0 || k >= channels) return;
    for (int y = 1; y < int(blockDim.y); y++) {
        total.first += seen[y][threadIdx.x].first;
        total.second += seen[y][threadIdx.x].second;
    }
    dbeta[k] = total.first;
    dgamma[k] = total.second;
}
