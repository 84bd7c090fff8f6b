// One step of a recorded sampler: every sampler is sums of earlier states and network outputs with weights that are known beforehand, so
// that a whole step is a graph which reads its number from a counter on the device and can be replayed as it is.

// state = sum over the step's terms of weight history[slot]; history[target] = state; network_input = input_scale state.
//
// history (slots, n); first (steps + 1), the step's terms being first[step]..first[step + 1]; slot and weight (terms); input_scale and
// target (steps); network_input (n). The sum in double, in the order of the terms; its slots may include the target, since a thread reads
// its place of all of them before it writes. Block 256, any grid. Reads terms, writes 2 of n.
extern "C" __global__ void __launch_bounds__(BLOCK)
combine(A* history, const int* step, const int* first, const int* slot, const double* weight, const double* input_scale,
        const int* target, S* network_input, long n) {
    int now = *step, from = first[now], to = first[now + 1];
    double scale = input_scale[now];
    A* state = history + target[now] * n;
    each(n, n % PACK == 0 && aligned(history) && aligned(network_input), [=](long i, auto width) {
        constexpr int V = WIDTH(width);
        double sum[V] = {};
        for (int t = from; t < to; t++) {
            auto v = read_arithmetic<V>(history + slot[t] * n + i);
            double w = weight[t];
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += w * (double)v.x[j];
        }
        Vec<V> v, input;
#pragma unroll
        for (int j = 0; j < V; j++) {
            v.x[j] = A(sum[j]);
            input.x[j] = A(scale * sum[j]);
        }
        write_arithmetic(state + i, v);
        write(network_input + i, input);
    });
}

// history[slot[step]] = y, the network's output (n); nothing where the slot is negative. Block 256, any grid.
extern "C" __global__ void __launch_bounds__(BLOCK) keep_output(const S* y, A* history, const int* step, const int* slot, long n) {
    int to = slot[*step];
    if (to < 0) return;
    A* out = history + to * n;
    each(n, n % PACK == 0 && aligned(y) && aligned(history), [=](long i, auto width) {
        write_arithmetic(out + i, read<WIDTH(width)>(y + i));
    });
}

// The next step. One thread.
extern "C" __global__ void advance(int* step) {
    if (blockIdx.x == 0 && threadIdx.x == 0) *step += 1;
}
