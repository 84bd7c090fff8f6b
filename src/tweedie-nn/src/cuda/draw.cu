// What a step of a recorded sampler needs before its state is summed: its draws, and what the network is told.

// history[draw_slot[k]] = normals of draw draw[k], for the step's k in draw_first[step]..draw_first[step + 1].
//
// history (slots, images, height, width, channels). Element j of image i, in the data sets' order (channels, height, width), is
// normal(seed, draw, (first_image + i) d + j), the one that the CPU draws. Block 256, any grid. Writes n for each draw.
extern "C" __global__ void __launch_bounds__(BLOCK)
draw_normals(A* history, const int* step, const int* draw_first, const int* draws, const int* draw_slot, unsigned long long seed,
             const unsigned long long* first_image, int images, int height, int width, int channels) {
    int now = *step, from = draw_first[now], to = draw_first[now + 1], area = height * width, size = area * channels;
    long n = (long)images * size;
    for (int k = from; k < to; k++) {
        A* out = history + draw_slot[k] * n;
        for (long i = thread_index(); i < n; i += thread_count()) {
            long image = quotient(i, size);
            int place = int(i - image * size), pixel = place / channels, channel = place - pixel * channels;
            unsigned long long index = (*first_image + image) * size + (unsigned long long)channel * area + pixel;
            out[i] = A(normal(seed, draws[k], index));
        }
    }
}

// times[i] = time[step] and labels[i] = label[step] for every image. One block.
extern "C" __global__ void tell(double* times, int* labels, const int* step, const double* time, const int* label, int images) {
    for (int i = threadIdx.x; i < images; i += blockDim.x) {
        times[i] = time[*step];
        labels[i] = label[*step];
    }
}
