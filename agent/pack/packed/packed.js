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

  const { floor, abs, min, max, imul, clz32, fround } = Math, char = String.fromCharCode;

  const MAX = 9007199254740992; // 2^53
  const MAX_TIME = MAX / 2;
  const MAX_INDEX = 17592186044416; // 2^44
  const MAX_DIGITS = 1125899906842624; // 2^50
  const MAX_READINGS = 131072;
  const MAX_PAYLOAD = 1048576; // of a schema too
  const TWO32 = 4294967296;
  const KEY = 0x9E3779B1; // of a bit of a number

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
  const unzigzag = u => u % 2 ? -(u + 1) / 2 : u / 2;
  // hash takes a, b and c modulo 2^32.
  const hash = (a, b, c) => {
    a = imul(a, KEY) ^ imul(b, 0x85EBCA6B) ^ imul(c, 0xC2B2AE35);
    a = imul(a ^ a >>> 15, 0x2C1B3C6D);
    return (a ^ a >>> 13) >>> 0;
  };
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

  // ---- range coder (coder.go)

  let digits, at, radix, bottom, low, range;

  const normalize = () => {
    while (range < bottom) {
      low = low * radix + (digits[at++] || 0); // beyond the end are zeros
      range *= radix;
    }
  };

  const begin = () => {
    range = 1;
    low = 0;
    for (bottom = i = radix > 99 ? 6 : 7; i--;) {
      bottom = range * radix;
      normalize();
    }
    bottom = range / radix;
  };

  // uniform is a number below n.
  const uniform = n => {
    range = floor(range / n);
    const v = floor(low / range);
    check(v < n);
    low -= v * range;
    normalize();
    return v;
  };

  // raw is width bits, at most 53.
  const raw = width => {
    let v = 0;
    for (; width > 0; width -= 16) v = v * powers[min(width, 16)] + uniform(powers[min(width, 16)]);
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
  // Three arrays: slots (p*256 + count); 9 sets of 6 weights; the history: 16 numbers, of which those named below are used,
  // then 2 tables of 64 guesses, then 16 of memory.

  const SEEN = 0, V1 = 1, V2 = 2, E1 = 3, E2 = 4, CHANGES = 5, SIZE = 6, LEVEL = 7, FLAGS = 8, GUESSED = 9, MISSING = 11;
  const GUESSES = 16;
  const SET_FLAGS = 7;

  let cells, shift, weights, history, refined; // of the stream in hand; shift makes a hash a place in cells
  const places = new Int32Array(6), inputs = new Int32Array(6), contexts = new Int32Array(6);

  const stream = bits => [
    new Int32Array(powers[bits]).fill(45000 << 8),
    new Int32Array(54).map((_, i) => i < 30 ? 16666 : i < 42 ? 33333 : 50000),
    new Float64Array(160)
  ];
  // refinements are 10 rows of 33.
  const refinements = () => new Int32Array(330).map((_, i) => squash[i % 33]);

  const place = (a, b, c) => hash(a, b, c) >>> shift;
  const spot = key => imul(key, 0x2C1B3C6D) >>> shift;
  const push = (key, b, mask) => { history[key] = (history[key] << 1 | b) & mask; };

  // bit decodes one bit from the contexts places[0..n), with one of the sets of weights.
  const bit = (n, set) => {
    const w = set * 6;
    let dot = 0, near = -1, i, x, p, final, slot, q, b = 0;
    for (i = 0; i < n; i++) {
      slot = cells[places[i]];
      x = stretches[slot >> 12] * confidences[slot & 255] >> 8;
      inputs[i] = x;
      dot += weights[w + i] * x;
    }
    x = min(max(floor(dot / 65536), -2048), 2047) + 2048;
    final = p = squashes[x];
    if (set < SET_FLAGS) {
      near = history[CHANGES] & 3;
      near = 33 * (!set && near ? 6 + near : set) + (x >> 7);
      x &= 127;
      final = p + 3 * (refined[near] * (128 - x) + refined[near + 1] * x >> 7) >> 2;
      final = min(max(final, 22), 65514);
      near += x >> 6;
    }
    x = floor(range / 65536) * final;
    final = 0;
    if (low < x) {
      range = x;
      b = 1;
      final = 65535;
    } else {
      low -= x;
      range -= x;
    }
    if (range < bottom) normalize();
    if (near >= 0) refined[near] += final - refined[near] >> 6;
    x = (final - p) * 5;
    for (i = 0; i < n; i++) {
      weights[w + i] += x * inputs[i] >> 16;
      slot = cells[places[i]];
      q = slot >> 8;
      slot &= 255;
      q += (final - q) * rates[slot] >> 15;
      cells[places[i]] = q << 8 | (slot < 120 ? slot + 1 : slot);
    }
    return b;
  };

  const two = (p0, p1, set) => {
    places[0] = p0;
    places[1] = p1;
    return bit(2, set);
  };
  const flagAt = (kind, c0, c1) => two(place(12, kind, c0), place(12, kind, c1), SET_FLAGS);
  const flag = (kind, context) => flagAt(kind, 0, 1 + context);

  // signed is a whole number with its length modelled; usual is about how many bits twice it has.
  const signed = (kind, usual) => {
    let n = usual;
    if (flag(kind, 0)) for (n++; n < 52 && flag(kind, n - usual);) n++;
    else while (n && !flag(kind, 64 + usual - n)) n--;
    return unzigzag(n < 2 ? n : powers[n - 1] + raw(n - 1));
  };

  // number decodes a whole number in the contexts; usual is about how many bits it has. A guess that has been right so far
  // says what it wants.
  let guess0, guess1;
  const number = usual => {
    const g0 = abs(guess0), g1 = abs(guess1), l0 = size(g0), l1 = size(g1);
    let on0 = true, on1 = true, n = max(usual, 1), out = 1, i, d;
    // guessed makes a place of a guess: which bit it wants, if it has been right so far.
    const guessed = (at, i, node, want) => {
      places[at] = spot(imul((i ? on1 : on0) && history[GUESSED + i] * 4 + 1 + want, 0xC2B2AE35) + imul(node, KEY) + (10 << 24 + i));
    };
    const spots = (count, key) => {
      for (i = 0; i < count; i++) places[i] = spot(contexts[i] + key);
    };
    const decide = (count, set, want0, want1) => {
      const b = bit(count, set);
      on0 = on0 && want0 == b;
      on1 = on1 && want1 == b;
      return b;
    };
    const longer = (set, n, node) => {
      const key = imul(node, KEY);
      spots(3, key);
      places[3] = spot(contexts[5] + key);
      places[4] = spot(key);
      guessed(5, 0, node, l0 > n);
      return decide(6, set, l0 > n, l1 > n);
    };
    spots(5, 0);
    guessed(5, 0, 0, g0 > 0);
    if (!decide(6, 0, g0 > 0, g1 > 0)) return 0;
    spots(5, KEY);
    guessed(5, 1, 1, guess1 < 0);
    const sign = decide(6, 1, guess0 < 0, guess1 < 0);
    if (longer(2, n, 64 + n)) for (n++; n < 52 && longer(3, n, 128 + n);) n++;
    else while (n > 1 && !longer(4, n - 1, 192 + n)) n--;
    for (i = n - 2; i >= 0; i--) {
      d = powers[i];
      if (n - i > 9 && !on0 && !on1) {
        out = out * d * 2 + raw(i + 1);
        break;
      }
      places[0] = spot(imul(out, 0x85EBCA6B) + imul(256 + n * 2 + sign, KEY));
      guessed(1, 0, 2, floor(g0 / d) & 1);
      guessed(2, 1, 2, floor(g1 / d) & 1);
      out = out * 2 + decide(3, i === n - 2 ? 5 : 6, floor(g0 / d) & 1, floor(g1 / d) & 1);
    }
    return sign ? -out : out;
  };

  // ---- records (payload.go)

  let schema, prior, base; // base is what times begin from
  let streams; // made, or copied from the prior's, when they are first needed: of the channels, then of the groups
  let tables; // the refinements: of all channels, of all groups
  let clocks, over; // over: groups that have ended
  let parent, parentStep, changed; // what the record's other numbers say

  const start = (s, known) => {
    schema = s;
    prior = known;
    streams = [];
    tables = known.r_.map(r => r.slice());
    over = 0;
    clocks = s.gr.map(() => ({ seen_: 0, ended_: 0, at_: 0, rest_: 0, phase_: 0, expected_: base }));
  };

  const streamOf = i => streams[i] = streams[i] || (prior[i] || stream((schema.ch[i] || schema.gr[i - schema.ch.length]).sl || 11)).map(a => a.slice());
  const use = i => {
    [cells, weights, history] = streamOf(i);
    shift = clz32(cells.length) + 1;
    refined = tables[i < schema.ch.length ? 0 : 1];
  };

  const byParent = () => GUESSES + (hash(8, parent, 0) & 63);
  const byLast = () => GUESSES + 64 + (hash(9, history[V1], history[V2]) & 63);

  const guessed = (i, cell, v) => {
    push(GUESSED + i, history[cell] === v, 7);
    history[cell] = v;
  };
  // stepped keeps a step; r is what was coded of it.
  const stepped = (e, r) => {
    history[E2] = history[E1];
    history[E1] = e;
    push(CHANGES, e !== 0, 15);
    history[SIZE] += (min(abs(r), 1048576) * 16 - history[SIZE]) * 9 >> 6;
  };

  // valueOf decodes one value.
  const valueOf = ch => {
    let n, e = 0, usual, other, odd;
    if (history[SEEN]) {
      usual = history[V1];
      other = usual * 2;
      if (ch.lev && !ch.lin) usual = floor((history[LEVEL] + 8) / 16);
      else if (ch.fix && !ch.lin) usual = ch.mean;
      else {
        other = floor(history[LEVEL] / 8);
        if (ch.lin) usual += usual - history[V2];
      }
      e = magnitude(history[E1]);
      n = magnitude(parentStep);
      odd = min(changed, 3);
      contexts.set([
        hash(4, min(n, 15), odd), hash(3, history[V1], 0), hash(21, e, n), hash(2, history[CHANGES], odd),
        hash(7, magnitude(other - usual * 2), 0), hash(5, size(history[SIZE]), e)
      ]);
      guess0 = history[byParent()] - usual;
      guess1 = history[byLast()] - usual;
      e = number(size(history[SIZE]) - 5);
      n = usual + e;
    } else n = ch.mean + signed(10, ch.dev);
    check(abs(n) <= MAX_INDEX * 2);
    if (!history[SEEN]) {
      history[SEEN] = 1;
      history[V1] = history[V2] = n;
      history[LEVEL] = n * 16;
    }
    guessed(0, byParent(), n);
    guessed(1, byLast(), n);
    history[LEVEL] += floor((n * 16 - history[LEVEL]) * 5 / 32);
    history[V2] = history[V1];
    history[V1] = n;
    stepped(e, e);

    odd = two(place(22, history[FLAGS] & 3, 0), place(22, 4, n), 8);
    push(FLAGS, odd, 7);
    if (odd && flag(0, 0)) return escape(ch, n);
    return finite(value(ch, n, odd && correction(n)));
  };

  const finite = v => {
    check(isFinite(v));
    return v;
  };

  // escape decodes a value that does not lie on the channel's lattice; n is near it.
  const escape = (ch, n) => {
    const m = 144 + (hash(9, n, 0) & 15);
    let k = 0, x;
    if (flag(1, history[FLAGS] >> 1)) return history[m];
    if (flag(2, 0)) {
      while (k < 15 && flag(3, k)) k++;
      x = floor(value(ch, n, 0) * pow10[k] + 0.5);
      if (!(abs(x) < MAX_DIGITS)) x = 0;
      return history[m] = (x + signed(4, 0)) / pow10[k];
    }
    x = [0, 0, 0, 0].map(() => uniform(65536));
    for (; k < 4; k++) w16[LOW ? k : 3 - k] = x[k];
    return history[m] = finite(f64[0]);
  };

  // correction decodes how far a value is from where its number lies.
  const correction = n => {
    const more = node => two(place(20, node, 0), place(20, node + 256, n), SET_FLAGS);
    const negative = more(1);
    let m = 1;
    while (m < 100 && more(1 + min(m, 30))) m++;
    return negative ? -m : m;
  };

  const timeOf = (r, g) => {
    const k = clocks[r.g];
    let late, step, t, rest = 0, cell, pull;
    if (k.seen_) {
      if (g.res > 1) rest = flag(9, 0) ? raw(size(g.res - 1)) : k.rest_;
      late = magnitude(k.phase_ >> 6);
      step = magnitude(history[E1]);
      contexts.set([
        hash(13, late, step), hash(17, history[E1], 0), hash(16, step, magnitude(history[E2])),
        hash(18, history[CHANGES], 0), hash(14, late, 0), hash(15, step, 0)
      ]);
      cell = GUESSES + (hash(19, history[E1], 0) & 63);
      pull = g.pull === 1 ? history[E2] : g.pull ? -(k.phase_ >> 5) : 0;
      guess0 = history[cell] - pull;
      guess1 = history[E2] - pull;
      step = number(size(history[SIZE]) - 5);
      t = step + pull;
      k.at_ += g.per + t;
      k.rest_ = rest;
      check(abs(k.at_) <= MAX_TIME);
      push(GUESSED, guess0 === step, 7);
      push(GUESSED + 1, guess1 === step, 7);
      t = min(max(t, -MAX_INDEX), MAX_INDEX);
      history[cell] = t;
      stepped(t, step);
      k.phase_ += min(max(t, -1048576), 1048576) * 16;
      k.phase_ -= k.phase_ >> 3;
      r.t = k.at_ * g.res + rest;
    } else {
      k.seen_ = 1;
      r.t = base + signed(10, size(g.per * g.res));
      k.at_ = floor(r.t / g.res);
      k.rest_ = r.t - k.at_ * g.res;
    }
    check(abs(r.t) <= MAX_TIME);
    k.expected_ = (k.at_ + g.per) * g.res + k.rest_;
  };

  // record decodes one poll of the group r.g. A quality of -1 stands for what is missing.
  const record = r => {
    const g = schema.gr[r.g], there = g.ch.map(() => 0);
    let graded = 0, n = 0, last = 0, h;
    use(g.at_);
    timeOf(r, g);
    last = flag(6, history[FLAGS] & 3);
    push(FLAGS, last, 3);
    if (last) {
      graded = flag(11, 0);
      if (flag(12, graded)) {
        last = 0;
        there.forEach((_, i) => {
          h = streamOf(g.ch[i])[2];
          last = n || i < there.length - 1 ? flagAt(7, min(n, 2) * 4 + last * 2 + h[MISSING], 16 + i * 2 + min(n, 1)) : 1;
          h[MISSING] = last;
          n += last;
          there[i] = -last;
        });
      }
    }
    changed = 0;
    r.q = there;
    g.ch.forEach((at, i) => {
      const ch = schema.ch[at];
      if (there[i] < 0) return;
      use(at);
      if (graded) {
        there[i] = flag(8, 0);
        there[i] = there[i] * 2 + flag(8, there[i] + 1);
      }
      h = ch.par && streamOf(ch.par - 1)[2];
      parent = h ? h[V1] : 0;
      parentStep = h ? h[E1] : 0;
      r.v[i] = valueOf(ch);
      changed += history[CHANGES] & 1;
    });
  };

  // ended says whether group g has no more records. Where there is only one group, nothing is said.
  const ended = g => {
    if (clocks.length < 2) return 0;
    const n = min(over, 3);
    use(schema.ch.length);
    g = clocks[g];
    g.ended_ = flagAt(5, n, 4 + 2 * n + g.seen_);
    over += g.ended_;
    return g.ended_;
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
        all.push(r = { g: g, t: 0, v: [], q: [] });
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
    payload = payload || '';
    const length = payload.length;
    let letters, c, g, polls = 0;
    check(length > 5 && length <= MAX_PAYLOAD, 'payload of ' + length + ' bytes: want 6 to ' + MAX_PAYLOAD);
    digits = new Uint8Array(length);
    for (at = 0; at < length; at++) {
      c = payload[at];
      if (c >= 0 && c < 256 && typeof c === 'number') c = char(c);
      if (!at) {
        g = '!#%(\x01\x02'.indexOf(c);
        check(g >= 0, 'first byte ' + c + ': an unknown version');
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
  const slots = o => o.sl ? whole(o, 'sl', 4, 12) : whole(o, 'sl', 0, 0);
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
      check(json.length <= MAX_PAYLOAD, 'schema: over ' + MAX_PAYLOAD + ' bytes');
      try { json = JSON.parse(json); } catch (e) { fail('schema: ' + e.message); }
    }
    json = json || {};
    const names = new Set(), groupOf = [], s = { id: whole(json, 'id', 1, TWO32 - 1) };
    let n = 0;
    copy(s, json, 'gw', '');
    whole(json, 'e', 0, TWO32 - 1);
    s.ch = list(json, 'ch', 1, 4096).map(o => {
      o = o || {};
      const c = { mean: whole(o, 'mean', -MAX_INDEX, MAX_INDEX), par: whole(o, 'par', 0, 4096), dev: whole(o, 'dev', 0, 48), sl: slots(o), dec: given(o.dec) ? whole(o, 'dec', 0, 15) : -1 };
      copy(c, o, 'n u', '');
      copy(c, o, 'div step off', 0);
      copy(c, o, 'f32 bits lin lev fix', false);
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
      const g = { at_: s.ch.length + i, ch: list(o, 'ch', 1, 4096), res: whole(o, 'res', 1, TWO32), pull: whole(o, 'pull', 0, 2), sl: slots(o) };
      g.per = whole(o, 'per', 1, floor(TWO32 / g.res));
      g.ch = g.ch.map((c, k) => {
        c = whole(g.ch, k, 0, s.ch.length - 1);
        const p = s.ch[c].par;
        check(!(c in groupOf) && (!p || groupOf[p - 1] === i), 'schema: group ' + i + ': channel ' + c + ': want one of no group yet, after its parent');
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
    known.r_ = [refinements(), refinements()];
    // A primer was coded with what those before it taught.
    s.primer.forEach(payload => {
      check(typeof payload === 'string', 'schema: primer: want strings');
      const d = open(payload, s, known);
      check(radix === 93, 'schema: primer: want radix 93');
      records(d.polls);
      // What was learnt is kept, where the numbers stood forgotten.
      streams.forEach((x, i) => {
        x[0] = x[0].map(slot => slot & ~255 | min(slot & 255, 18));
        x[2].fill(0, 0, GUESSES);
        known[i] = x;
      });
      known.r_ = tables;
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
