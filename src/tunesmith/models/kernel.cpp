// Forest attention in one pass over tiles, for float32 and bfloat16. Built by kernel.py; the law is attention.py itself.
//
// A segment and its ancestors are one run of keys, of which its own queries are the last: causal attention behind a
// prefix. A task is one segment under one head of keys and values. Sums are float32 and in a fixed order, whatever
// thread does a task: what descendants add to an ancestor's keys is kept aside and added in the order of segments.
//
// A product is C += A B with A read one unit at a time and B a row of units at a time. A unit is 32 bits: one float, or
// (where the processor multiplies bfloat16) two bfloat16 that follow each other along the sum.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

extern "C" void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);  // of the runtime that torch has loaded

namespace {

#ifdef __AVX512F__
constexpr int W = 16;
#else
constexpr int W = 8;
#endif
#ifdef __AVX512BF16__
constexpr bool PAIRS = true;
#else
constexpr bool PAIRS = false;
#endif
constexpr int MR = 4, NV = W == 16 ? 4 : 2, TILE = 64;
constexpr float HIDDEN = -INFINITY;

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint16_t half;
typedef int64_t i64;

inline vf load(const float* p) { vf v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
inline int up(i64 n, int by) { return int((n + by - 1) / by * by); }

inline float wide(float x) { return x; }
inline float wide(half x) { uint32_t u = uint32_t(x) << 16; float f; std::memcpy(&f, &u, 4); return f; }
inline void narrow(float x, float* to) { *to = x; }
inline void narrow(float x, half* to) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    *to = x != x ? 0x7fc0 : half((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

inline vf exp2v(vf x) {  // to 2e-7; 0 below 2^-126
    vf n = (x + 12582912.0f) - 12582912.0f, f = x - n;
    vf p = 0.000154035304f * f + 0.00133335581f;
    p = p * f + 0.00961812911f;
    p = p * f + 0.0555041087f;
    p = p * f + 0.240226507f;
    p = p * f + 0.693147181f;
    p = p * f + 1.0f;
    vi bits = (vi)p + (__builtin_convertvector(n, vi) << 23);
    return x < -126.0f ? vf{} : (vf)bits;
}

template <bool H> inline vf fma_unit(vf acc, const float* a, vf b) {
#ifdef __AVX512BF16__
    if constexpr (H) {
        int32_t unit;
        std::memcpy(&unit, a, 4);
        return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(unit), (__m512bh)b);
    }
#endif
    return acc + *a * b;
}

template <bool H, int C>
void rows_of_tile(i64 num, const float* a, i64 sa, i64 sk, const float* b, i64 ldb, float* c, i64 ldc, bool add) {
    vf acc[MR][C];
    for (int r = 0; r < MR; r++)
        for (int j = 0; j < C; j++) acc[r][j] = add ? load(c + r * ldc + j * W) : vf{};
    for (i64 k = 0; k < num; k++) {
        vf row[C];
        for (int j = 0; j < C; j++) row[j] = load(b + k * ldb + j * W);
        for (int r = 0; r < MR; r++)
            for (int j = 0; j < C; j++) acc[r][j] = fma_unit<H>(acc[r][j], a + r * sa + k * sk, row[j]);
    }
    for (int r = 0; r < MR; r++)
        for (int j = 0; j < C; j++) store(c + r * ldc + j * W, acc[r][j]);
}

// c [m, n] (+)= a b; m a multiple of MR, n of W, num units in a sum. Unit (i, k) of a is at i sa + k sk.
template <bool H>
void product(i64 m, i64 n, i64 num, const float* a, i64 sa, i64 sk, const float* b, i64 ldb, float* c, i64 ldc, bool add) {
    for (i64 j = 0; j < n; j += NV * W) {
        i64 left = (n - j) / W;
        auto* run = left >= NV ? rows_of_tile<H, NV> : left == 3 ? rows_of_tile<H, 3> : left == 2 ? rows_of_tile<H, 2>
                                                                                                 : rows_of_tile<H, 1>;
        for (i64 i = 0; i < m; i += MR) run(num, a + i * sa, sa, sk, b + j, ldb, c + i * ldc + j, ldc, add);
    }
}

template <bool H> constexpr int UNIT = H ? 2 : 1;

// A row of d numbers as units along itself, filled up with zeros to `units`.
template <class T, bool H> void along(const T* from, i64 d, float* to, i64 units) {
    if constexpr (H) {
        half* row = (half*)to;
        std::memcpy(row, from, d * 2);
        std::fill(row + d, row + units * 2, half(0));
    } else {
        for (i64 i = 0; i < d; i++) to[i] = wide(from[i]);
        std::fill(to + d, to + units, 0.0f);
    }
}

// UNIT rows (null: zeros) as one row of units across them.
template <class T, bool H> void across(const T* first, const T* second, i64 d, float* to, i64 width) {
    if constexpr (H) {
        uint32_t* row = (uint32_t*)to;
        for (i64 i = 0; i < d; i++) row[i] = (first ? first[i] : 0) | uint32_t(second ? second[i] : 0) << 16;
        std::fill(row + d, row + width, 0u);
    } else {
        for (i64 i = 0; i < d; i++) to[i] = first ? wide(first[i]) : 0.0f;
        std::fill(to + d, to + width, 0.0f);
    }
}

void transposed(const float* from, i64 rows, i64 cols, float* to, i64 ld) {
    const int32_t* source = (const int32_t*)from;
    int32_t* target = (int32_t*)to;
    for (i64 r = 0; r < rows; r += 16)
        for (i64 c = 0; c < cols; c++)
            for (i64 i = r; i < std::min(rows, r + 16); i++) target[c * ld + i] = source[i * cols + c];
}

// Floats [rows, cols] as units along rows, and as units across pairs of rows; only bfloat16 needs copies.
void as_halves(const float* from, i64 rows, i64 cols, half* along_rows, uint32_t* across_rows) {
#ifdef __AVX512BF16__
    for (i64 r = 0; r < rows; r += 2)
        for (i64 c = 0; c < cols; c += W) {
            __m256i a = (__m256i)_mm512_cvtneps_pbh((__m512)load(from + r * cols + c));
            __m256i b = r + 1 < rows ? (__m256i)_mm512_cvtneps_pbh((__m512)load(from + (r + 1) * cols + c)) : __m256i{};
            if (along_rows) {
                std::memcpy(along_rows + r * cols + c, &a, 32);
                std::memcpy(along_rows + (r + 1) * cols + c, &b, 32);
            }
            if (across_rows) {
                __m512i pair = _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
                std::memcpy(across_rows + r / 2 * cols + c, &pair, 64);
            }
        }
#endif
}

struct Job {
    const void *q, *k, *v, *out, *d_out;
    void *to, *d_q, *d_k, *d_v;
    float* lse;
    const i64 *start, *stop, *parent;
    i64 q_head, q_token, k_head, k_token, v_head, v_token, g_token, g_head;  // strides; g: of d_out
    i64 heads, kv, num, segments, d, dv, window, threads;
    float scale;
};

struct Task { i64 head, segment, cost; };

struct Kept { std::vector<i64> tokens; std::vector<float> d_k, d_v; };  // what a task adds to its ancestors

struct Buffers {
    std::vector<i64> keys;
    std::vector<float> rows, kt, vt, kr, vr, q, qr, g, gr, s, dp, o, sum_k, sum_v;
    std::vector<half> p, ds;
    std::vector<uint32_t> p_pairs, ds_pairs;
};

// Tokens that a segment sees: ancestors within the window, then its own. Returns how many are ancestors'.
i64 keys_of(const Job& job, i64 segment, std::vector<i64>& keys) {
    std::vector<i64> path;
    for (i64 s = segment; s >= 0; s = job.parent[s]) path.push_back(s);
    keys.clear();
    for (auto s = path.rbegin(); s != path.rend(); s++)
        for (i64 t = job.start[*s]; t < job.stop[*s]; t++) keys.push_back(t);
    i64 before = i64(keys.size()) - (job.stop[segment] - job.start[segment]);
    i64 unseen = job.window < 0 ? 0 : std::max<i64>(0, before - job.window + 1);
    keys.erase(keys.begin(), keys.begin() + unseen);
    return before - unseen;
}

template <class T, bool H>
void pack_keys(const std::vector<i64>& keys, const T* x, i64 step, i64 d, Buffers& b, std::vector<float>* turned,
               std::vector<float>* flat) {
    i64 num = i64(keys.size()), padded = up(num, TILE), width = up(d, 16), units = width / UNIT<H>;
    if (turned) {  // [units, padded]: a sum along d
        b.rows.assign(padded * units, 0.0f);
        for (i64 i = 0; i < num; i++) along<T, H>(x + keys[i] * step, d, b.rows.data() + i * units, units);
        turned->resize(units * padded);
        transposed(b.rows.data(), padded, units, turned->data(), padded);
    }
    if (flat) {  // [padded / UNIT, width]: a sum along keys
        flat->resize(padded / UNIT<H> * width);
        for (i64 i = 0; i < padded; i += UNIT<H>)
            across<T, H>(i < num ? x + keys[i] * step : nullptr, i + 1 < num ? x + keys[i + 1] * step : nullptr, d,
                         flat->data() + i / UNIT<H> * width, width);
    }
}

struct Tile { i64 first, rows, from, cols, before; };  // queries [first, first + rows) against keys [from, from + cols)

Tile tile_at(const Job& job, i64 first, i64 num, i64 before) {
    i64 rows = std::min<i64>(TILE, num - first);
    i64 from = job.window < 0 ? 0 : std::max<i64>(0, before + first - job.window + 1) / TILE * TILE;
    return {first, rows, from, up(before + first + rows, TILE) - from, before};
}

// Scores that a row must not see become -inf.
void hide(const Job& job, const Tile& t, i64 row, float* s) {
    i64 at = t.before + t.first + row - t.from;
    std::fill(s + at + 1, s + t.cols, HIDDEN);
    if (job.window >= 0 && at - job.window + 1 > 0) std::fill(s, s + at - job.window + 1, HIDDEN);
}

template <class T, bool H> void forward(const Job& job, const Task& task, Buffers& b) {
    const i64 s = task.segment, g = job.heads / job.kv, d = job.d, dv = job.dv, num = job.stop[s] - job.start[s];
    const i64 before = keys_of(job, s, b.keys), padded = up(b.keys.size(), TILE);
    const i64 units = up(d, 16) / UNIT<H>, width = up(dv, 16);
    const float alpha = job.scale * 1.44269504f;
    pack_keys<T, H>(b.keys, (const T*)job.k + task.head * job.k_head, job.k_token, d, b, &b.kt, nullptr);
    pack_keys<T, H>(b.keys, (const T*)job.v + task.head * job.v_head, job.v_token, dv, b, nullptr, &b.vr);
    b.q.assign(TILE * units, 0.0f), b.o.resize(TILE * width);
    b.s.resize(TILE * padded), b.p.resize(H ? TILE * padded : 0);
    for (i64 head = task.head * g; head < (task.head + 1) * g; head++)
        for (i64 first = 0; first < num; first += TILE) {
            const Tile t = tile_at(job, first, num, before);
            const i64 token = job.start[s] + first;
            const T* q = (const T*)job.q + head * job.q_head + token * job.q_token;
            for (i64 r = 0; r < t.rows; r++) along<T, H>(q + r * job.q_token, d, b.q.data() + r * units, units);
            product<H>(up(t.rows, MR), t.cols, units, b.q.data(), units, 1, b.kt.data() + t.from, padded, b.s.data(), t.cols, false);
            float total[TILE];
            for (i64 r = 0; r < t.rows; r++) {
                float* row = b.s.data() + r * t.cols;
                hide(job, t, r, row);
                vf most = load(row), sum{};
                for (i64 c = W; c < t.cols; c += W) { vf x = load(row + c); most = x > most ? x : most; }
                float top = most[0];
                for (int i = 1; i < W; i++) top = std::max(top, most[i]);
                top *= alpha;
                for (i64 c = 0; c < t.cols; c += W) { vf e = exp2v(load(row + c) * alpha - top); sum += e; store(row + c, e); }
                float all = 0;
                for (int i = 0; i < W; i++) all += sum[i];
                total[r] = 1 / all;
                job.lse[(task.head * job.num + token + r) * g + head - task.head * g] = top + std::log2(all);
            }
            const float* p = b.s.data();
            if (H) as_halves(p, up(t.rows, 2), t.cols, b.p.data(), nullptr), p = (const float*)b.p.data();
            product<H>(up(t.rows, MR), width, t.cols / UNIT<H>, p, t.cols / UNIT<H>, 1, b.vr.data() + t.from / UNIT<H> * width, width, b.o.data(), width, false);
            for (i64 r = 0; r < t.rows; r++)
                for (i64 c = 0; c < dv; c++)
                    narrow(b.o[r * width + c] * total[r], (T*)job.to + ((token + r) * job.heads + head) * dv + c);
        }
}

// Rows of a tile as units along them (for a product with keys) and across them (for a sum over the rows).
template <class T, bool H>
void pack_queries(const T* x, i64 step, i64 rows, i64 d, std::vector<float>& flat, std::vector<float>& pairs) {
    const i64 width = up(d, 16), units = width / UNIT<H>;
    for (i64 r = 0; r < rows; r++) along<T, H>(x + r * step, d, flat.data() + r * units, units);
    for (i64 r = 0; r < rows; r += UNIT<H>)
        across<T, H>(x + r * step, r + 1 < rows ? x + (r + 1) * step : nullptr, d, pairs.data() + r / UNIT<H> * width, width);
}

template <class T, bool H> void backward(const Job& job, const Task& task, Buffers& b, float* all_k, float* all_v, Kept& kept) {
    const i64 s = task.segment, g = job.heads / job.kv, d = job.d, dv = job.dv, num = job.stop[s] - job.start[s];
    const i64 before = keys_of(job, s, b.keys), padded = up(b.keys.size(), TILE);
    const i64 wq = up(d, 16), wv = up(dv, 16), uq = wq / UNIT<H>, uv = wv / UNIT<H>;
    const float alpha = job.scale * 1.44269504f;
    pack_keys<T, H>(b.keys, (const T*)job.k + task.head * job.k_head, job.k_token, d, b, &b.kt, &b.kr);
    pack_keys<T, H>(b.keys, (const T*)job.v + task.head * job.v_head, job.v_token, dv, b, &b.vt, nullptr);
    b.q.assign(TILE * uq, 0.0f), b.qr.assign(TILE * wq, 0.0f), b.g.assign(TILE * uv, 0.0f), b.gr.assign(TILE * wv, 0.0f);
    b.s.resize(TILE * padded), b.dp.resize(TILE * padded), b.o.resize(TILE * wq);
    b.ds.resize(H ? TILE * padded : 0), b.p_pairs.resize(H ? TILE * padded : 0), b.ds_pairs.resize(H ? TILE * padded : 0);
    b.sum_k.assign(padded * wq, 0.0f), b.sum_v.assign(padded * wv, 0.0f);
    for (i64 head = task.head * g; head < (task.head + 1) * g; head++)
        for (i64 first = 0; first < num; first += TILE) {
            const Tile t = tile_at(job, first, num, before);
            const i64 token = job.start[s] + first, even = up(t.rows, UNIT<H>), many = up(t.rows, MR);
            const T* d_out = (const T*)job.d_out + token * job.g_token + head * job.g_head;
            pack_queries<T, H>((const T*)job.q + head * job.q_head + token * job.q_token, job.q_token, t.rows, d, b.q, b.qr);
            pack_queries<T, H>(d_out, job.g_token, t.rows, dv, b.g, b.gr);
            product<H>(many, t.cols, uq, b.q.data(), uq, 1, b.kt.data() + t.from, padded, b.s.data(), t.cols, false);
            product<H>(many, t.cols, uv, b.g.data(), uv, 1, b.vt.data() + t.from, padded, b.dp.data(), t.cols, false);
            for (i64 r = 0; r < even; r++) {
                float *row = b.s.data() + r * t.cols, *slope = b.dp.data() + r * t.cols;
                if (r >= t.rows) { std::fill(row, row + t.cols, 0.0f), std::fill(slope, slope + t.cols, 0.0f); continue; }
                hide(job, t, r, row);
                const T* out = (const T*)job.out + ((token + r) * job.heads + head) * dv;
                float delta = 0, lse = job.lse[(task.head * job.num + token + r) * g + head - task.head * g];
                for (i64 c = 0; c < dv; c++) delta += wide(out[c]) * wide(d_out[r * job.g_token + c]);
                for (i64 c = 0; c < t.cols; c += W) {
                    vf e = exp2v(load(row + c) * alpha - lse);
                    store(row + c, e), store(slope + c, e * (load(slope + c) - delta));
                }
            }
            const float *ds = b.dp.data(), *p_turned = b.s.data(), *ds_turned = ds;
            if (H) {
                as_halves(b.s.data(), even, t.cols, nullptr, b.p_pairs.data());
                as_halves(b.dp.data(), even, t.cols, b.ds.data(), b.ds_pairs.data());
                ds = (const float*)b.ds.data(), p_turned = (const float*)b.p_pairs.data(), ds_turned = (const float*)b.ds_pairs.data();
            }
            product<H>(many, wq, t.cols / UNIT<H>, ds, t.cols / UNIT<H>, 1, b.kr.data() + t.from / UNIT<H> * wq, wq, b.o.data(), wq, false);
            for (i64 r = 0; r < t.rows; r++)
                for (i64 c = 0; c < d; c++)
                    narrow(b.o[r * wq + c] * job.scale, (T*)job.d_q + ((token + r) * job.heads + head) * d + c);
            product<H>(t.cols, wv, even / UNIT<H>, p_turned, 1, t.cols, b.gr.data(), wv, b.sum_v.data() + t.from * wv, wv, true);
            product<H>(t.cols, wq, even / UNIT<H>, ds_turned, 1, t.cols, b.qr.data(), wq, b.sum_k.data() + t.from * wq, wq, true);
        }
    kept.tokens.assign(b.keys.begin(), b.keys.begin() + before);
    kept.d_k.resize(before * d), kept.d_v.resize(before * dv);
    for (i64 i = 0; i < before + num; i++) {
        float* to_k = i < before ? kept.d_k.data() + i * d : all_k + (task.head * job.num + b.keys[i]) * d;
        float* to_v = i < before ? kept.d_v.data() + i * dv : all_v + (task.head * job.num + b.keys[i]) * dv;
        std::copy_n(b.sum_k.data() + i * wq, d, to_k), std::copy_n(b.sum_v.data() + i * wv, dv, to_v);
    }
}

template <class F> void each(i64 num, i64 threads, F work) {
    struct Shared { std::atomic<i64> next; i64 num; F* work; std::atomic<bool> failed; } shared{{0}, num, &work, {false}};
    auto run = [](void* given) {
        auto& s = *(Shared*)given;
        try {
            Buffers buffers;
            for (i64 i; (i = s.next++) < s.num;) (*s.work)(i, buffers);
        } catch (const std::exception&) { s.failed = true; }  // out of a thread it would end the process
    };
    GOMP_parallel(run, &shared, unsigned(threads), 0);
    if (shared.failed) throw std::bad_alloc();
}

std::vector<Task> tasks_of(const Job& job) {
    std::vector<Task> tasks;
    std::vector<i64> before(job.segments);
    for (i64 s = 0; s < job.segments; s++) {
        i64 num = job.stop[s] - job.start[s], above = job.parent[s];
        before[s] = above < 0 ? 0 : before[above] + job.stop[above] - job.start[above];
        for (i64 h = 0; h < job.kv; h++) tasks.push_back({h, s, num * (2 * before[s] + num)});
    }
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.cost > b.cost; });
    return tasks;
}

template <class T, bool H> void run_forward(const Job& job) {
    const auto tasks = tasks_of(job);
    each(i64(tasks.size()), job.threads, [&](i64 i, Buffers& b) { forward<T, H>(job, tasks[i], b); });
}

template <class T, bool H> void run_backward(const Job& job) {
    const auto tasks = tasks_of(job);
    std::vector<float> all_k(job.kv * job.num * job.d), all_v(job.kv * job.num * job.dv);
    std::vector<Kept> kept(job.kv * job.segments);
    each(i64(tasks.size()), job.threads, [&](i64 i, Buffers& b) {
        backward<T, H>(job, tasks[i], b, all_k.data(), all_v.data(), kept[tasks[i].head * job.segments + tasks[i].segment]);
    });
    each(job.kv, job.threads, [&](i64 h, Buffers&) {
        for (i64 s = 0; s < job.segments; s++) {
            const Kept& from = kept[h * job.segments + s];
            for (size_t i = 0; i < from.tokens.size(); i++) {
                float* k = all_k.data() + (h * job.num + from.tokens[i]) * job.d;
                float* v = all_v.data() + (h * job.num + from.tokens[i]) * job.dv;
                for (i64 c = 0; c < job.d; c++) k[c] += from.d_k[i * job.d + c];
                for (i64 c = 0; c < job.dv; c++) v[c] += from.d_v[i * job.dv + c];
            }
        }
        for (i64 t = 0; t < job.num; t++) {
            for (i64 c = 0; c < job.d; c++)
                narrow(all_k[(h * job.num + t) * job.d + c] * job.scale, (T*)job.d_k + (t * job.kv + h) * job.d + c);
            for (i64 c = 0; c < job.dv; c++)
                narrow(all_v[(h * job.num + t) * job.dv + c], (T*)job.d_v + (t * job.kv + h) * job.dv + c);
        }
    });
}

}  // namespace

// 1 where memory ran out.
extern "C" int forest_attention(const Job* job, int is_half, int is_backward) {
    try {
        if (is_backward) is_half ? run_backward<half, PAIRS>(*job) : run_backward<float, false>(*job);
        else is_half ? run_forward<half, PAIRS>(*job) : run_forward<float, false>(*job);
        return 0;
    } catch (const std::exception&) { return 1; }
}
