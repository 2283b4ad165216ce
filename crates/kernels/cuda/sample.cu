// Choosing a token per row of logits, and log-probabilities; a block per row.
//
// Cuts are exact: the cut-off is found digit by digit over (logit, id) with a histogram of whole numbers, whose sums no
// order of additions can change. The draw is Gumbel-max over random numbers that depend on the row's key and the token
// id alone, as on the CPU (`moesaic-worker`, random.rs and sampler.rs).
#include "device.cuh"

constexpr int SAMPLE_THREADS = 512;
constexpr int SAMPLE_WARPS = SAMPLE_THREADS / WARP;
constexpr int MAX_TOP = 20;
constexpr uint32_t NO_TOKEN = 0xffffffff;

struct SampleRow {
    uint64_t key;     // of the position's random numbers
    double top_p;     // 1 keeps all
    float temperature; // 0 for the most likely token
    float floor;      // least logit, below the best by this much after the temperature
    uint32_t top_k;   // 0 keeps all
    int32_t mask_row; // row of the masks, or -1
    int32_t first_adjustment;
    int32_t num_adjustments;
    uint32_t given;   // do not choose: this is the token
    int32_t num_top;  // log-probabilities: of the token and so many of the best; -1 for none
};

// All that changes one token's logit, in this order.
struct Adjustment {
    uint32_t id;
    float bias;       // added
    float repetition; // divides positive logits, multiplies others
    float penalty;    // subtracted
    uint32_t banned;
    uint32_t unused;
};

enum Status : uint32_t { SAMPLED = 0, NOT_FINITE = 1, NOTHING_ALLOWED = 2 };

struct SampleResult {
    uint32_t id;
    uint32_t status;
    float logprob;
    uint32_t num_top;
    uint32_t top_ids[MAX_TOP];
    float top_logprobs[MAX_TOP];
};

struct SampleArgs {
    const float* logits; // (rows, vocab)
    float* scratch;      // (rows, vocab), for rows with masks or adjustments
    const SampleRow* rows;
    const uint32_t* masks; // (mask rows, ceil(vocab / 32)): a bit per allowed token
    const Adjustment* adjustments;
    SampleResult* results;
    int32_t vocab;
    int32_t unused;
};

struct SampleShared {
    unsigned long long histogram[256];
    uint64_t words[SAMPLE_WARPS];
    double doubles[SAMPLE_WARPS];
    uint64_t digit; // the chosen one
    uint64_t above; // weight of all digits above it
};

// Larger is better: the higher logit, then the lower id.
DEVICE uint64_t rank_of(float logit, uint32_t id) { return uint64_t(order_key(logit)) << 32 | uint32_t(~id); }
DEVICE uint32_t id_of(uint64_t rank) { return ~uint32_t(rank); }

DEVICE uint64_t block_max(uint64_t value, SampleShared& shared) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) {
        const uint64_t other = shuffle_xor(value, mask);
        value = other > value ? other : value;
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared.words[threadIdx.x / WARP] = value;
    __syncthreads();
    for (int warp = 0; warp < SAMPLE_WARPS; warp++) value = shared.words[warp] > value ? shared.words[warp] : value;
    return value;
}

// Every thread gets the sum, made in an order that does not change. `scratch`: a place per warp.
template <class T> DEVICE T block_sum(T value, T* scratch) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    __syncthreads();
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
    __syncthreads();
    T sum = 0;
    for (int warp = 0; warp < SAMPLE_WARPS; warp++) sum += scratch[warp];
    return sum;
}

// The logits of a row and which of them are candidates.
struct Candidates {
    const float* logits;
    int vocab;
    float best;
    float temperature;
    float floor;
    uint64_t least; // rank

    DEVICE_MEMBER float scaled(int id) const { return (logits[id] - best) / temperature; }
    DEVICE_MEMBER bool has(int id, float scaled) const { return scaled >= floor && rank_of(scaled, id) >= least; }
};

// Probability relative to the best, in units of 2^-40.
DEVICE uint64_t mass_of(float scaled) { return uint64_t(double(expf(scaled)) * 1099511627776.0); }

// Adds each lane's weight to its digit. Lanes of one digit, of which there are often many, add theirs up first.
DEVICE void count_digits(SampleShared& shared, uint32_t digit, unsigned long long weight) {
    for (int round = 0; round < 2; round++) {
        const uint32_t waiting = __ballot_sync(0xffffffffu, weight > 0);
        if (waiting == 0) return;
        const int leader = __ffs(waiting) - 1;
        const uint32_t common = shuffle(digit, leader); // by all lanes, before any condition
        const bool follows = weight > 0 && digit == common;
        unsigned long long sum = follows ? weight : 0;
        for (int mask = WARP / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
        if (int(threadIdx.x) % WARP == leader) atomicAdd(&shared.histogram[digit], sum);
        if (follows) weight = 0;
    }
    if (weight > 0) atomicAdd(&shared.histogram[digit], weight);
}

// The digit with which the weights of it and all above it first reach `wanted` together with `above` (0, if they never
// do). The first warp; a lane takes eight digits, from the highest on.
DEVICE void find_digit(SampleShared& shared, uint64_t above, uint64_t wanted) {
    constexpr int RUN = 256 / WARP;
    const int lane = threadIdx.x, highest = 255 - lane * RUN;
    uint64_t own = 0, before = above;
    for (int i = 0; i < RUN; i++) own += shared.histogram[highest - i];
    for (int other = 0; other < WARP; other++) {
        const uint64_t others = shuffle(own, other);
        if (other < lane) before += others;
    }
    const bool is_last = lane == WARP - 1;
    if (before >= wanted || (before + own < wanted && !is_last)) return;
    int digit = highest;
    while (digit > highest - RUN + 1 && before + shared.histogram[digit] < wanted) before += shared.histogram[digit--];
    shared.above = before;
    shared.digit = digit;
}

// The least rank of the fewest best candidates whose weights together reach `wanted` (all, if they never do).
template <bool BY_MASS> DEVICE uint64_t cut(const Candidates& candidates, uint64_t wanted, SampleShared& shared) {
    uint64_t prefix = 0, above = 0;
    // Ids are below 2^24, so that byte of their complement is always full.
    for (int shift = 56; shift >= 0; shift -= 8) {
        if (shift == 24) {
            prefix = prefix << 8 | 0xff;
            continue;
        }
        for (int i = threadIdx.x; i < 256; i += SAMPLE_THREADS) shared.histogram[i] = 0;
        __syncthreads();
        // Whole warps, since their lanes add up together.
        for (int first = 0; first < candidates.vocab; first += SAMPLE_THREADS) {
            const int id = first + threadIdx.x;
            unsigned long long weight = 0;
            uint32_t digit = 0;
            if (id < candidates.vocab) {
                const float scaled = candidates.scaled(id);
                const uint64_t rank = rank_of(scaled, id);
                const bool counts = candidates.has(id, scaled) && (shift == 56 || rank >> (shift + 8) == prefix);
                if (counts) weight = BY_MASS ? mass_of(scaled) : 1;
                digit = rank >> shift & 0xff;
            }
            count_digits(shared, digit, weight);
        }
        __syncthreads();
        if (threadIdx.x < WARP) find_digit(shared, above, wanted);
        __syncthreads();
        above = shared.above;
        prefix = prefix << 8 | shared.digit;
        __syncthreads(); // both were read
    }
    return prefix;
}

// SplitMix64's finaliser (Steele, Lea and Flood, 2014).
DEVICE uint64_t mix(uint64_t value) {
    value += 0x9E3779B97F4A7C15u;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}

DEVICE uint64_t gumbel_bits(uint64_t key, uint32_t id) { return mix(key + id * 0x9E3779B97F4A7C15u); }

DEVICE double gumbel(uint64_t bits) {
    const double uniform = (double(bits >> 12) + 0.5) / 4503599627370496.0;
    return -log(-log(uniform));
}

// Not less than the variate, without logarithms (see random.rs).
DEVICE double gumbel_bound(uint64_t bits) { return double(__clzll((long long)~bits) + 1) * 0.693148; }

DEVICE uint32_t draw(const Candidates& candidates, uint64_t key, uint32_t first, SampleShared& shared) {
    double best = gumbel(gumbel_bits(key, first)); // its logit is 0
    uint32_t best_id = first;
    for (int id = threadIdx.x; id < candidates.vocab; id += SAMPLE_THREADS) {
        const float scaled = candidates.scaled(id);
        if (!candidates.has(id, scaled)) continue;
        const uint64_t bits = gumbel_bits(key, id);
        if (scaled + gumbel_bound(bits) < best) continue;
        const double score = scaled + gumbel(bits);
        if (score > best || (score == best && uint32_t(id) < best_id)) {
            best = score;
            best_id = id;
        }
    }
    const uint64_t highest = block_max(order_key(best), shared);
    const uint64_t lowest = block_max(order_key(best) == highest ? uint64_t(uint32_t(~best_id)) : 0, shared);
    return ~uint32_t(lowest);
}

// The row's logits with mask and adjustments, or as they are where it has none.
DEVICE const float* adjusted(const SampleArgs& args, const SampleRow& row, const float* logits, float* scratch) {
    if (row.mask_row < 0 && row.num_adjustments == 0) return logits;
    const uint32_t* const mask = args.masks + int64_t(row.mask_row) * ((args.vocab + 31) / 32);
    for (int id = threadIdx.x; id < args.vocab; id += SAMPLE_THREADS) {
        const bool allowed = row.mask_row < 0 || (mask[id / 32] >> id % 32 & 1);
        scratch[id] = allowed ? logits[id] : NEG_INF;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < row.num_adjustments; i += SAMPLE_THREADS) {
        const Adjustment change = args.adjustments[row.first_adjustment + i];
        if (change.id >= uint32_t(args.vocab)) continue;
        float logit = scratch[change.id] + change.bias;
        logit = (logit > 0.0f ? logit / change.repetition : logit * change.repetition) - change.penalty;
        scratch[change.id] = change.banned || scratch[change.id] == NEG_INF ? NEG_INF : logit;
    }
    __syncthreads();
    return scratch;
}

// The best rank of a row; `is_finite` tells whether no logit is NaN or +inf.
DEVICE uint64_t best_of(const float* logits, int vocab, bool& is_finite, SampleShared& shared) {
    uint64_t best = 0;
    for (int id = threadIdx.x; id < vocab; id += SAMPLE_THREADS) {
        // NaN counts as the largest, of either sign.
        const float logit = logits[id] < -NEG_INF ? logits[id] : -NEG_INF;
        const uint64_t rank = rank_of(logit, id);
        best = rank > best ? rank : best;
    }
    best = block_max(best, shared);
    is_finite = uint32_t(best >> 32) < order_key(-NEG_INF);
    return best;
}

DEVICE uint32_t choose(const SampleArgs& args, const SampleRow& row, const float* raw, float* scratch, uint32_t& id, SampleShared& shared) {
    bool is_finite;
    uint64_t best = best_of(raw, args.vocab, is_finite, shared);
    if (!is_finite) return NOT_FINITE;
    const float* const logits = adjusted(args, row, raw, scratch);
    if (logits != raw) best = best_of(logits, args.vocab, is_finite, shared);
    if (!is_finite) return NOT_FINITE;
    const uint32_t first = id_of(best);
    if (logits[first] == NEG_INF) return NOTHING_ALLOWED;
    id = first;
    if (row.temperature == 0.0f) return SAMPLED;
    Candidates candidates{logits, args.vocab, logits[first], row.temperature, row.floor, 0};
    if (row.top_k > 0 && row.top_k < uint32_t(args.vocab)) candidates.least = cut<false>(candidates, row.top_k, shared);
    if (row.top_p < 1.0) {
        uint64_t mass = 0;
        for (int i = threadIdx.x; i < args.vocab; i += SAMPLE_THREADS) {
            const float scaled = candidates.scaled(i);
            if (candidates.has(i, scaled)) mass += mass_of(scaled);
        }
        const double wanted = row.top_p * double(block_sum(mass, shared.words));
        candidates.least = cut<true>(candidates, uint64_t(ceil(wanted)), shared);
    }
    id = draw(candidates, row.key, first, shared);
    return SAMPLED;
}

// Log-probabilities before temperature and adjustments.
DEVICE void report(const SampleArgs& args, const SampleRow& row, const float* logits, SampleResult& result, SampleShared& shared) {
    bool is_finite;
    uint64_t rank = best_of(logits, args.vocab, is_finite, shared);
    const float max = logits[id_of(rank)];
    double sum = 0.0;
    for (int id = threadIdx.x; id < args.vocab; id += SAMPLE_THREADS) sum += double(expf(logits[id] - max));
    const double log_sum_exp = double(max) + log(block_sum(sum, shared.doubles));
    if (threadIdx.x == 0) result.logprob = float(double(logits[result.id]) - log_sum_exp);
    const int num_top = min(min(row.num_top, args.vocab), MAX_TOP);
    for (int place = 0; place < num_top; place++) {
        if (threadIdx.x == 0) {
            result.top_ids[place] = id_of(rank);
            result.top_logprobs[place] = float(double(logits[id_of(rank)]) - log_sum_exp);
        }
        uint64_t next = 0;
        for (int id = threadIdx.x; id < args.vocab; id += SAMPLE_THREADS) {
            const uint64_t candidate = rank_of(logits[id], id);
            next = candidate < rank && candidate > next ? candidate : next;
        }
        rank = block_max(next, shared);
    }
    if (threadIdx.x == 0) result.num_top = num_top;
}

KERNEL(sample, SAMPLE_THREADS)(SampleArgs args) {
    SampleShared& shared = *reinterpret_cast<SampleShared*>(shared_memory());
    const SampleRow row = args.rows[blockIdx.x];
    const float* const logits = args.logits + int64_t(blockIdx.x) * args.vocab;
    SampleResult& result = args.results[blockIdx.x];
    uint32_t id = row.given < uint32_t(args.vocab) ? row.given : 0, status = SAMPLED;
    if (row.given != NO_TOKEN) {
        bool is_finite = true;
        if (row.num_top >= 0) best_of(logits, args.vocab, is_finite, shared);
        if (!is_finite) status = NOT_FINITE;
    } else {
        status = choose(args, row, logits, args.scratch + int64_t(blockIdx.x) * args.vocab, id, shared);
    }
    if (threadIdx.x == 0) {
        result.id = id;
        result.status = status;
        result.logprob = 0.0f;
        result.num_top = 0;
    }
    __syncthreads();
    if (row.num_top >= 0 && status == SAMPLED) report(args, row, logits, result, shared);
}
EXPORT(sample)

constexpr int FILL_THREADS = 128;
constexpr uint32_t CHOSEN = 0x80000000; // the bit that makes an id a placeholder: the rest is a row of the results

// Puts the tokens that the step before chose in the place of their placeholders.
KERNEL(fill_in, FILL_THREADS)(uint32_t* ids, const SampleResult* results, int count, uint32_t num_results) {
    const int i = blockIdx.x * FILL_THREADS + threadIdx.x;
    if (i >= count || !(ids[i] & CHOSEN)) return;
    const uint32_t row = ids[i] & ~CHOSEN;
    ids[i] = row < num_results ? results[row].id : 0;
}
EXPORT(fill_in)
