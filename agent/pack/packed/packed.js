// Decoder of Homeward's packed payloads (docs/packed.md). ES2015, no dependencies: a CommonJS module, a browser's
// global `homewardPacked`, or pasted into a function of a cloud.
//
//   peek(payload)            -> {schema, gateway, epoch, first, polls, gaps}; needs no schema
//   decoder(schema)          -> a function; schema is the object or its JSON text
//   decoder(schema)(payload) -> {gateway, epoch, first, gaps, readings: [{seq, t, n, u, v, q}]}
//
// A payload is a string, or a Uint8Array. What is not a payload, or not of the schema, throws an Error.
//
// It is the same to the bit as the decoder in Go: all whole numbers stay within 2^53, where doubles are exact.
// Names that end in _ are shortened in packed.min.js. Not reentrant inside, and need not be: nothing here waits.
var homewardPacked = (() => {
  'use strict';

  const { floor, abs, min, max, imul, clz32, trunc, fround } = Math, is = Object.is, char = String.fromCharCode;

  const MAX = 9007199254740992; // 2^53
  const MAX_TIME = MAX / 2;
  const MAX_INDEX = 17592186044416; // 2^44
  const MAX_DIGITS = 1125899906842624; // 2^50
  const MAX_READINGS = 131072;
  const MAX_PAYLOAD = 1048576, MAX_SCHEMA = MAX_PAYLOAD;
  const TWO32 = 4294967296;

  const fail = text => { throw new Error('packed: ' + text); };
  const check = (ok, text) => ok || fail(text || 'damaged: no encoder writes this');

  // ---- tables (model.go)

  const squash = [22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768];
  const squashes = new Int32Array(4096), stretches = new Int32Array(4096), rates = new Int32Array(256), confidences = new Int32Array(256);
  const powers = [], pow10 = [];
  let letters93 = '', i, x;
  for (i = 0; i < 16; i++) {
    squash[32 - i] = 65536 - squash[i];
    pow10[i] = +('1e' + i);
  }
  for (i = 0; i < 64; i++) powers[i] = Math.pow(2, i);
  for (i = 32; i < 127; i++) if (i !== 34 && i !== 92) letters93 += char(i);
  for (i = 0; i < 4096; i++) {
    x = squash[i >> 7];
    squashes[i] = x + ((squash[(i >> 7) + 1] - x) * (i & 127) >> 7);
  }
  for (i = x = 0; i < 4096; i++) {
    while (x < 4095 && squashes[x] < i * 16 + 8) x++;
    stretches[i] = x - 2048;
  }
  for (i = 0; i < 256; i++) {
    x = 10 * i + 16;
    rates[i] = 327680 / x;
    confidences[i] = 256 * (x - 13) / x;
  }

  // ---- small numbers

  // size is the length of v in bits.
  const size = v => v < TWO32 ? 32 - clz32(v) : 64 - clz32(v / TWO32);
  const magnitude = e => e < 0 ? size(-e) * 2 + 1 : size(e) * 2;
  const zigzag = v => v < 0 ? -2 * v - 1 : 2 * v;
  const unzigzag = u => u % 2 ? -(u + 1) / 2 : u / 2;
  // round rounds halves away from 0.
  const round = v => abs(v - trunc(v)) < 0.5 ? trunc(v) : trunc(v) + (v < 0 ? -1 : 1);
  // hash takes a, b and c modulo 2^32.
  const hash = (a, b, c) => {
    a = imul(a, 0x9E3779B1) ^ imul(b, 0x85EBCA6B) ^ imul(c, 0xC2B2AE35);
    a = imul(a ^ a >>> 15, 0x2C1B3C6D);
    return (a ^ a >>> 13) >>> 0;
  };
  const place = (a, b, c) => hash(a, b, c) >>> 19;

  // ---- doubles by their bits (schema.go)

  const f64 = new Float64Array([1, 0]), w32 = new Uint32Array(f64.buffer), w16 = new Uint16Array(f64.buffer);
  const f32 = new Float32Array(1), i32 = new Int32Array(f32.buffer);
  const LOW = w32[0] ? 1 : 0, HIGH = 1 - LOW; // where the halves of a double are: of a big-endian machine too

  // step is the k-th double above v; never -0.
  const step = (v, k) => {
    if (!k) return v + 0;
    f64[0] = v;
    let negative = w32[HIGH] >>> 31, high = w32[HIGH] & 0x7fffffff, low = w32[LOW] + (negative ? -k : k);
    if (low >= TWO32) {
      low -= TWO32;
      high++;
    } else if (low < 0 && high) {
      low += TWO32;
      high--;
    } else if (low < 0) {
      low = -low;
      negative = !negative;
    }
    w32[HIGH] = high;
    w32[LOW] = low;
    return (negative ? -f64[0] : f64[0]) + 0;
  };
  // apart is how many doubles v is above w; near enough where they are many.
  const apart = (v, w) => {
    f64[0] = v;
    f64[1] = w;
    const a = w32[HIGH] >>> 31 ? -1 : 1, b = w32[HIGH + 2] >>> 31 ? -1 : 1;
    return (a * (w32[HIGH] & 0x7fffffff) - b * (w32[HIGH + 2] & 0x7fffffff)) * TWO32 + (a * w32[LOW] - b * w32[LOW + 2]);
  };
  const ordered = n => n < 0 ? -2147483648 - n : n;

  const value = (ch, n, corr) => {
    if (ch.bits) {
      i32[0] = ordered(n); // modulo 2^32
      return step(f32[0], corr);
    }
    let v = ch.div ? n / ch.div : n * ch.step + ch.off;
    if (ch.f32) {
      v = fround(v);
      if (ch.dec >= 0) v *= pow10[ch.dec];
    }
    return ch.dec >= 0 ? (floor(v + 0.5) + corr) / pow10[ch.dec] : step(v, corr);
  };

  // index finds the number and the correction that give v; fits says whether there are any.
  let found, foundCorr, fits;
  const index = (ch, v) => {
    let w;
    found = foundCorr = 0;
    fits = false;
    if (ch.bits) {
      f32[0] = v;
      w = ordered(i32[0]);
    } else w = ch.div ? v * ch.div : ((ch.dec >= 0 && !ch.f32 ? v * pow10[ch.dec] : v) - ch.off) / ch.step;
    if (abs(w) < MAX_INDEX) {
      found = round(w);
      w = value(ch, found, 0);
      fits = is(w, v);
      if (!fits) {
        w = ch.dec >= 0 ? round((v - w) * pow10[ch.dec]) : apart(v, w);
        if (abs(w) <= 100) {
          foundCorr = w;
          fits = is(value(ch, found, w), v);
        }
      }
    }
  };

  // ---- range coder (coder.go): it decodes, or it is dry: what is asked for is given, and only the model learns

  let dry, digits, at, radix, bottom, low, range;

  const normalize = () => {
    while (range < bottom) {
      low = low * radix + (digits[at++] || 0); // beyond the end are zeros
      range *= radix;
    }
  };

  const begin = () => {
    dry = false;
    range = 1;
    low = 0;
    for (bottom = i = radix > 99 ? 6 : 7; i--;) {
      bottom = range * radix;
      normalize();
    }
    bottom = range / radix;
  };

  // uniform is a number below n, or v.
  const uniform = (n, v) => {
    if (!dry) {
      range = floor(range / n);
      v = floor(low / range);
      check(v < n);
      low -= v * range;
      normalize();
    }
    return v;
  };

  // raw is width bits, at most 53, or v.
  const raw = (width, v) => {
    if (!dry) for (v = 0; width > 0; width -= 16) v = v * powers[min(width, 16)] + uniform(powers[min(width, 16)]);
    return v;
  };

  const natural = lengthBits => {
    const n = uniform(powers[lengthBits]);
    if (n < 2) return n;
    check(n < 55);
    const v = raw(n - 1);
    check(n < 54 || !v); // at most 2^53
    return powers[n - 1] + v;
  };

  // ---- one stream of numbers (model.go, number.go)
  //
  // a_: 8192 slots (p*256 + count), then 9 sets of 10 weights, then 12 rows of 33 refinements.
  // h_: the history: 16 numbers, of which those named below are used; then 2 tables of 256 guesses; then 64 of memory.

  const WEIGHTS = 8192, REFINED = 8282, CELLS = 8678;
  const SEEN = 0, V1 = 1, V2 = 2, E1 = 3, E2 = 4, CHANGES = 5, SIZE = 6, LEVEL = 7, FLAGS = 8, GUESSED = 9;
  const GUESSES = 16, MEMORY = 528, HISTORY = 592;
  const SET_FLAGS = 7;

  let cells, history; // of the stream in hand
  const places = new Int32Array(10), inputs = new Int32Array(10), contexts = new Int32Array(8);

  const stream = () => {
    const a = new Int32Array(CELLS).fill(45000 << 8);
    for (i = WEIGHTS; i < CELLS; i++) a[i] = i < REFINED - 20 ? 10000 : i < REFINED ? 45000 : squash[(i - REFINED) % 33];
    return { a_: a, h_: new Float64Array(HISTORY) };
  };

  const push = (key, b, mask) => { history[key] = (history[key] << 1 | b) & mask; };

  // bit decodes one bit from the contexts places[0..n), with one of the sets of weights; where dry it is b.
  const bit = (b, n, set) => {
    const weights = WEIGHTS + set * 10;
    let dot = 0, near = 0, i, x, p, final, slot, q;
    for (i = 0; i < n; i++) {
      slot = cells[places[i]];
      x = stretches[slot >> 12] * confidences[slot & 255] >> 8;
      inputs[i] = x;
      dot += cells[weights + i] * x;
    }
    x = min(max(floor(dot / 65536), -2048), 2047) + 2048;
    final = p = squashes[x];
    if (set < SET_FLAGS) {
      near = history[CHANGES] & 3;
      near = REFINED + 33 * (!set && near ? 8 + near : set) + (x >> 7);
      x &= 127;
      final = p + 3 * (cells[near] * (128 - x) + cells[near + 1] * x >> 7) >> 2;
      final = min(max(final, 22), 65514);
      near += x >> 6;
    }
    if (!dry) {
      x = floor(range / 65536) * final;
      b = low < x;
      if (b) range = x;
      else {
        low -= x;
        range -= x;
      }
      if (range < bottom) normalize();
    }
    final = b ? 65535 : 0;
    if (near) cells[near] += final - cells[near] >> 6;
    x = (final - p) * 5;
    for (i = 0; i < n; i++) {
      cells[weights + i] += x * inputs[i] >> 16;
      slot = cells[places[i]];
      q = slot >> 8;
      slot &= 255;
      q += (final - q) * rates[slot] >> 15;
      cells[places[i]] = q << 8 | (slot < 120 ? slot + 1 : slot);
    }
    return b ? 1 : 0;
  };

  const two = (b, p0, p1, set) => {
    places[0] = p0;
    places[1] = p1;
    return bit(b, 2, set);
  };
  const flag = (b, kind, context) => two(b, place(12, kind, 0), place(12, kind, 1 + context), SET_FLAGS);

  // signed is a whole number with its length modelled.
  const signed = (v, kind) => {
    let n = 0;
    v = zigzag(v);
    while (n < 52 && flag(size(v) > n, kind, n)) n++;
    return unzigzag(n < 2 ? n : powers[n - 1] + raw(n - 1, v - powers[n - 1]));
  };

  // decide decodes one bit of a number; each guess that has been right so far says what it wants.
  let guess0, guess1, on0, on1;
  const decide = (b, set, node, want0, want1) => {
    const k = min(node, 40);
    for (let i = 0; i < 8; i++) places[i] = place(contexts[i], node, 1);
    places[8] = place(10, k, on0 ? 1 + want0 << 3 | history[GUESSED] & 7 : 0);
    places[9] = place(266, k, on1 ? 1 + want1 << 3 | history[GUESSED + 1] & 7 : 0);
    b = bit(b, 10, set);
    on0 = on0 && want0 == b;
    on1 = on1 && want1 == b;
    return b;
  };

  // number decodes a whole number in the contexts; where dry it is e.
  const number = e => {
    const g0 = abs(guess0), g1 = abs(guess1), v = abs(e);
    let n = 1, out = 1, i, d;
    on0 = on1 = true;
    if (!decide(e !== 0, 0, 0, guess0 !== 0, guess1 !== 0)) return 0;
    const sign = decide(e < 0, 1, 1, guess0 < 0, guess1 < 0);
    while (n < 52 && decide(size(v) > n, min(1 + n, 4), 1 + n, size(g0) > n, size(g1) > n)) n++;
    for (i = n - 2; i >= 0; i--) {
      d = powers[i];
      if (n - i > 9) {
        d *= 2;
        out = out * d + raw(i + 1, v % d);
        break;
      }
      out = out * 2 + decide(floor(v / d) & 1, i === n - 2 ? 5 : 6, hash(11, n * 2 + sign, out), floor(g0 / d) & 1, floor(g1 / d) & 1);
    }
    return sign ? -out : out;
  };

  // ---- records (payload.go)

  let schema, prior, base; // base is what times begin from
  let streams; // made, or copied from the prior's, when they are first needed: of the channels, then of the groups
  let clocks;
  let parent, parentStep, changed; // what the record's other numbers say

  const start = (s, known) => {
    schema = s;
    prior = known;
    streams = [];
    clocks = s.gr.map(() => ({ seen_: 0, ended_: 0, at_: 0, rest_: 0, phase_: 0, expected_: base }));
  };

  const streamOf = i => {
    const p = prior[i];
    return streams[i] = streams[i] || (p ? { a_: p.a_.slice(), h_: p.h_.slice() } : stream());
  };
  const use = i => {
    cells = streamOf(i).a_;
    history = streams[i].h_;
  };

  const byParent = () => GUESSES + (hash(8, parent, 0) & 255);
  const byLast = () => GUESSES + 256 + (hash(9, history[V1], history[V2]) & 255);

  const guessed = (i, cell, v) => {
    push(GUESSED + i, history[cell] === v, 7);
    history[cell] = v;
  };
  const stepped = e => {
    history[E2] = history[E1];
    history[E1] = e;
    push(CHANGES, e !== 0, 15);
  };

  // valueOf decodes one value; where dry it is v.
  const valueOf = (v, ch) => {
    let n, e = 0, usual, odd;
    found = foundCorr = 0;
    fits = true;
    if (dry) index(ch, v);
    const corr = foundCorr, escaped = !fits;
    if (history[SEEN]) {
      usual = history[V1];
      if (ch.lin) usual += usual - history[V2];
      e = magnitude(history[E1]);
      n = magnitude(parentStep);
      odd = min(changed, 3);
      contexts.set([
        hash(2, history[CHANGES], odd), hash(3, history[V1], 0), hash(4, min(n, 15), odd), hash(5, size(history[SIZE]), e),
        hash(6, history[V1], parent), hash(7, magnitude(floor(history[LEVEL] / 8) - usual * 2), 0), hash(21, e, n), 0
      ]);
      guess0 = history[byParent()] - usual;
      guess1 = history[byLast()] - usual;
      e = number(found - usual);
      n = usual + e;
    } else n = ch.mean + signed(found - ch.mean, 10);
    check(abs(n) <= MAX_INDEX * 2);
    if (!history[SEEN]) {
      history[SEEN] = 1;
      history[V1] = history[V2] = n;
      history[LEVEL] = n * 16;
    }
    guessed(0, byParent(), n);
    guessed(1, byLast(), n);
    history[LEVEL] += floor((n * 16 - history[LEVEL]) * 5 / 32);
    history[SIZE] += (min(abs(e), 1048576) * 16 - history[SIZE]) * 9 >> 6;
    history[V2] = history[V1];
    history[V1] = n;
    stepped(e);

    odd = two(escaped || corr, place(22, history[FLAGS] & 3, 0), place(22, 4, n), 8);
    push(FLAGS, odd, 7);
    if (odd && flag(escaped, 0, 0)) return escape(v, ch, n);
    odd = odd && correction(corr, n);
    return dry ? v : finite(value(ch, n, odd));
  };

  const finite = v => {
    check(isFinite(v));
    return v;
  };

  // escape decodes a value that does not lie on the channel's lattice; n is near it.
  const escape = (v, ch, n) => {
    const m = MEMORY + (hash(9, n, 0) & 63);
    let k = 0, x, want = -1, amount = 0;
    if (flag(is(history[m], v), 1, history[FLAGS] >> 1)) return history[m];
    if (dry) {
      for (k = 16; k--;) {
        x = round(v * pow10[k]);
        if (!is(x, -0) && abs(x) < MAX_DIGITS && is(x / pow10[k], v)) {
          want = k;
          amount = x;
        }
      }
    }
    if (flag(want >= 0, 2, 0)) {
      for (k = 0; k < 15 && flag(want > k, 3, k);) k++;
      x = floor(value(ch, n, 0) * pow10[k] + 0.5);
      if (!(abs(x) < MAX_DIGITS)) x = 0;
      v = (x + signed(amount - x, 4)) / pow10[k];
    } else if (!dry) {
      x = [0, 0, 0, 0].map(() => uniform(65536));
      for (k = 0; k < 4; k++) w16[LOW ? k : 3 - k] = x[k];
      v = finite(f64[0]);
    }
    return history[m] = v;
  };

  // correction decodes how far a value is from where its number lies; where dry it is v.
  const correction = (v, n) => {
    const more = (b, node) => two(b, place(20, node, 0), place(20, node + 256, n), SET_FLAGS);
    const negative = more(v < 0, 1);
    let m = 1;
    while (m < 100 && more(abs(v) > m, 1 + min(m, 30))) m++;
    return negative ? -m : m;
  };

  const timeOf = (r, g) => {
    const k = clocks[r.g];
    let late, step, t, rest = 0, cell;
    if (k.seen_) {
      t = floor(r.t / g.res);
      if (g.res > 1) {
        rest = r.t - t * g.res;
        rest = flag(rest !== k.rest_, 9, 0) ? raw(size(g.res - 1), rest) : k.rest_;
      }
      late = magnitude(k.phase_ >> 6);
      step = magnitude(history[E1]);
      contexts.set([
        hash(14, late, 0), hash(15, step, 0), hash(16, step, magnitude(history[E2])), hash(17, history[E1], 0),
        hash(13, late, step), hash(18, history[CHANGES], 0), 0, 0
      ]);
      cell = GUESSES + (hash(19, history[E1], 0) & 255);
      guess0 = history[cell];
      guess1 = history[E2];
      k.at_ += g.per;
      t = number(t - k.at_);
      k.at_ += t;
      k.rest_ = rest;
      guessed(0, cell, t);
      guessed(1, E2, t);
      stepped(t);
      k.phase_ += min(max(t, -1048576), 1048576) * 16;
      k.phase_ -= k.phase_ >> 3;
      r.t = k.at_ * g.res + rest;
    } else {
      k.seen_ = 1;
      r.t = base + signed(r.t - base, 10);
      k.at_ = floor(r.t / g.res);
      k.rest_ = r.t - k.at_ * g.res;
    }
    check(abs(r.t) <= MAX_TIME);
    k.expected_ = (k.at_ + g.per) * g.res + k.rest_;
  };

  // record decodes one poll of the group r.g; where dry it is r. A quality of -1 stands for what is missing.
  const record = r => {
    const g = schema.gr[r.g];
    use(g.at_);
    timeOf(r, g);
    r.shape_ = flag(r.shape_, 6, history[FLAGS] & 3);
    push(FLAGS, r.shape_, 7);
    changed = 0;
    g.ch.forEach((at, i) => {
      const ch = schema.ch[at];
      let q = dry ? r.q[i] : 0, p;
      use(at);
      if (r.shape_) {
        if (flag(q >= 0, 7, 0)) {
          p = flag(q >> 1, 8, 0);
          q = p * 2 + flag(q & 1, 8, p + 1);
        } else q = -1;
      }
      r.q[i] = q;
      if (q < 0) return;
      p = ch.par && streamOf(ch.par - 1).h_;
      parent = p ? p[V1] : 0;
      parentStep = p ? p[E1] : 0;
      r.v[i] = valueOf(r.v[i], ch);
      changed += history[CHANGES] & 1;
    });
  };

  const ended = g => {
    use(schema.gr[g].at_);
    return clocks[g].ended_ = flag(0, 5, clocks[g].seen_);
  };

  // records decodes all polls. The group that is expected first speaks, or says that it has ended.
  const records = polls => {
    const all = [];
    let readings = 0, g, r;
    while (all.length < polls) {
      g = -1;
      clocks.forEach((k, i) => { if (!k.ended_ && (g < 0 || k.expected_ < clocks[g].expected_)) g = i; });
      check(g >= 0);
      if (!ended(g)) {
        all.push(r = { g: g, t: 0, shape_: 0, v: [], q: [] });
        record(r);
        readings += r.q.length;
        check(readings <= MAX_READINGS);
      }
    }
    return all;
  };

  // ---- header (codec.go)

  const checksum = () => {
    let c = -1;
    digits.forEach((d, i) => {
      if (i !== 1 && i !== 2) c ^= d;
      for (let k = 0; k < 8; k++) c = c >>> 1 ^ (c & 1 && 0xEDB88320);
    });
    return (~c >>> 0) % (radix * radix);
  };

  const text = () => {
    let n = uniform(256), s = '';
    while (n--) s += '%' + (256 + uniform(256)).toString(16).slice(1);
    try {
      return decodeURIComponent(s);
    } catch (e) {
      check(0);
    }
  };

  const time = unit => {
    const t = unzigzag(natural(6)) * unit;
    check(abs(t) <= MAX_TIME);
    return t;
  };
  const uint32 = () => {
    const v = natural(6);
    check(v < TWO32);
    return v;
  };

  // peek decodes what precedes the polls, and leaves the coder there.
  const peek = payload => {
    const length = payload.length;
    let letters, c, g, polls = 0;
    check(length > 5 && length <= MAX_PAYLOAD, 'payload of ' + length + ' bytes: want 6 to ' + MAX_PAYLOAD);
    digits = new Uint8Array(length);
    for (at = 0; at < length; at++) {
      c = payload[at];
      if (c >= 0 && c < 256 && typeof c === 'number') c = char(c);
      if (!at) {
        g = '!#%(\x01\x02'.indexOf(c);
        check(g >= 0, 'first byte ' + c + ': no version that this release knows');
        radix = [93, 85, 256][g >> 1];
        letters = g & 2 ? letters93.replace(/[ &'/<=>`]/g, '') : letters93;
      }
      c = radix > 99 ? c.charCodeAt(0) : letters.indexOf(c);
      check(c >= 0 && c < 256, 'byte ' + at + ' is not a digit of radix ' + radix);
      digits[at] = c;
    }
    c = checksum();
    check(digits[1] * radix + digits[2] === c, 'damaged: its check is not ' + c);
    for (at = 3; at < 5 + (g & 1);) polls = polls * radix + digits[at++];
    begin();
    const d = { schema: uint32(), gateway: uniform(2) ? text() : '', epoch: uint32(), first: natural(6), polls: polls, gaps: [] };
    check(d.schema && d.first <= MAX - MAX_READINGS);
    base = time(uniform(2) ? 1000 : 1);
    for (c = natural(3); c--;) {
      d.gaps.push(g = { from: null, to: null });
      if (uniform(2)) {
        g.from = natural(6);
        g.to = natural(6);
        check(g.to <= MAX - g.from);
        g.to += g.from;
      }
      g.n = natural(6);
      g.t_from = time(1);
      g.t_to = time(1);
      g.reason = text();
      if (uniform(2)) g.maybe_delivered = true;
    }
    return d;
  };

  // ---- schema (schema.go)

  const given = v => v !== undefined && v !== null;

  const whole = (o, key, least, most) => {
    const v = given(o[key]) ? o[key] : 0;
    check(typeof v === 'number' && floor(v) === v && v >= least && v <= most, 'schema: ' + key + ' ' + v + ': want a whole number of ' + least + ' to ' + most);
    return v;
  };
  const list = (o, key, least, most) => {
    const v = given(o[key]) ? o[key] : [];
    check(Array.isArray(v) && v.length >= least && v.length <= most, 'schema: ' + key + ': want an array of ' + least + ' to ' + most);
    return v;
  };
  // copy takes the keys over, which are of the type that the default is of.
  const copy = (to, o, keys, none) => keys.split(' ').forEach(key => {
    to[key] = given(o[key]) ? o[key] : none;
    check(typeof to[key] === typeof none, 'schema: ' + key + ': want a ' + typeof none);
  });

  const parse = json => {
    if (typeof json === 'string') {
      check(json.length <= MAX_SCHEMA, 'schema of ' + json.length + ' bytes: want at most ' + MAX_SCHEMA);
      json = JSON.parse(json);
    }
    const names = new Set(), groupOf = [], s = { id: whole(json, 'id', 1, TWO32 - 1) };
    let n = 0;
    copy(s, json, 'gw', '');
    whole(json, 'e', 0, TWO32 - 1);
    s.ch = list(json, 'ch', 1, 4096).map(o => {
      o = o || {};
      const c = { mean: whole(o, 'mean', -MAX_INDEX, MAX_INDEX), par: whole(o, 'par', 0, 4096), dec: given(o.dec) ? whole(o, 'dec', 0, 15) : -1 };
      copy(c, o, 'n u', '');
      copy(c, o, 'div step off', 0);
      copy(c, o, 'f32 bits lin', false);
      const want = 'schema: channel ' + c.n + ': want ';
      check(max(abs(c.div), abs(c.step), abs(c.off)) < 1e300, want + 'finite numbers');
      check(c.bits || c.div >= 0 && c.step >= 0 && !c.div !== !c.step, want + 'div or step above 0');
      check(!c.div || c.dec < 0 || c.f32, want + 'f32 with dec and div');
      check(c.n && !names.has(c.n), want + 'a name of its own');
      names.add(c.n);
      return c;
    });
    s.gr = list(json, 'gr', 1, 1024).map((o, i) => {
      o = o || {};
      const g = { at_: s.ch.length + i, ch: list(o, 'ch', 1, 4096), res: whole(o, 'res', 1, TWO32) };
      g.per = whole(o, 'per', 1, floor(TWO32 / g.res));
      g.ch = g.ch.map((c, k) => {
        c = whole(g.ch, k, 0, s.ch.length - 1);
        const p = s.ch[c].par;
        check(!(c in groupOf) && (!p || groupOf[p - 1] === i), 'schema: group ' + i + ': channel ' + c + ': want one that no group has yet, after its parent');
        groupOf[c] = i;
        n++;
        return c;
      });
      return g;
    });
    check(n === s.ch.length, 'schema: want each channel in a group');
    s.primer = list(json, 'primer', 0, 8);
    return s;
  };

  const open = (payload, s, known) => {
    const d = peek(payload);
    check(d.schema === s.id, 'a payload of schema ' + d.schema + ': this one is ' + s.id);
    start(s, known);
    return d;
  };

  const decoder = json => {
    const s = parse(json), known = [];
    // A primer was coded without what others taught; it is replayed after what is known.
    s.primer.forEach(payload => {
      check(typeof payload === 'string', 'schema: primer: want strings');
      const d = open(payload, s, []);
      check(radix === 93, 'schema: primer: want radix 93');
      const all = records(d.polls);
      start(s, known);
      dry = true;
      all.forEach(r => {
        ended(r.g);
        record(r);
      });
      // What was learnt is kept, where the numbers stood forgotten.
      streams.forEach((x, i) => {
        x.h_.fill(0, 0, GUESSES);
        for (let j = 0; j < WEIGHTS; j++) x.a_[j] = x.a_[j] & ~255 | min(x.a_[j] & 255, 18);
        known[i] = x;
      });
    });
    return payload => {
      const d = open(payload, s, known), readings = [];
      records(d.polls).forEach(r => s.gr[r.g].ch.forEach((c, i) => {
        if (r.q[i] >= 0) {
          readings.push({
            seq: d.first + readings.length, t: r.t, n: s.ch[c].n, u: s.ch[c].u, v: r.v[i],
            q: ['good', 'stale-clock', 'suspect', 'aggregate'][r.q[i]]
          });
        }
      }));
      return { gateway: d.gateway || s.gw, epoch: d.epoch, first: d.first, gaps: d.gaps, readings: readings };
    };
  };

  return { peek: peek, decoder: decoder };
})();
if (typeof module === 'object' && module.exports) module.exports = homewardPacked;
