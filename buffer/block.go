package buffer

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"homeward/drivers"
)

// A sealed block: a contiguous run of a lane's polls, in columns, compressed.
// It says itself what it holds, so that it can be found in a damaged file.
// docs/buffer.md draws it to the byte.

const (
	blockMagic   = "HWB1"
	blockHeader  = 32 // magic, CRC-32C of all that follows it, length, lane, first number, readings, polls
	blockTarget  = 4096
	maxReadings  = 65535                     // of a poll
	maxBlockN    = blockTarget + maxReadings // readings in a block
	maxBlockRaw  = 32 << 20                  // decompressed
	maxBlockFile = 8 << 20                   // compressed
)

var errBlock = errors.New("damaged block")

type blockInfo struct {
	epoch    Epoch
	first    Seq
	n, polls int
	size     int // with its header
}

func (b blockInfo) span() Range { return Range{b.first, b.first + Seq(b.n) - 1} }

// deflater is kept by the sealer: its tables are large.
type deflater struct {
	w   *flate.Writer
	raw []byte
}

// encode makes the block of ps, which follow each other without holes.
func (z *deflater) encode(e Epoch, ps []poll) ([]byte, error) {
	n := 0
	var shapes []*shape
	shapeID := map[*shape]int{}
	var boots [][16]byte
	bootID := map[[16]byte]int{}
	for i := range ps {
		n += len(ps[i].values)
		if _, ok := shapeID[ps[i].shape]; !ok {
			shapeID[ps[i].shape] = len(shapes)
			shapes = append(shapes, ps[i].shape)
		}
		if _, ok := bootID[ps[i].stamp.Boot]; !ok {
			bootID[ps[i].stamp.Boot] = len(boots)
			boots = append(boots, ps[i].stamp.Boot)
		}
	}
	raw := z.raw[:0]
	raw = binary.AppendUvarint(raw, uint64(len(shapes)))
	for _, s := range shapes {
		raw = binary.AppendUvarint(raw, uint64(len(s.names)))
		for i := range s.names {
			raw = appendString(appendString(raw, s.names[i]), string(s.units[i]))
		}
	}
	raw = binary.AppendUvarint(raw, uint64(len(boots)))
	for _, b := range boots {
		raw = append(raw, b[:]...)
	}
	for i := range ps {
		raw = binary.AppendUvarint(raw, uint64(shapeID[ps[i].shape]))
	}
	for i := range ps {
		raw = binary.AppendUvarint(raw, uint64(bootID[ps[i].stamp.Boot]))
	}
	for i := range ps {
		var f byte
		if ps[i].alarm {
			f |= flagAlarm
		}
		if ps[i].stamp.Trusted {
			f |= flagTrusted
		}
		if ps[i].quals != nil {
			f |= flagQuality
		}
		raw = append(raw, f)
	}
	// Both clocks run evenly: what changes is the change of the change. The
	// arithmetic wraps, on both sides alike.
	var last, step int64
	for i := range ps {
		v := int64(ps[i].stamp.Mono)
		raw = binary.AppendVarint(raw, v-last-step)
		last, step = v, v-last
	}
	last = 0
	for i := range ps {
		v := ps[i].stamp.Wall - int64(ps[i].stamp.Mono/time.Millisecond)
		raw = binary.AppendVarint(raw, v-last)
		last = v
	}
	for i := range ps {
		for _, q := range ps[i].quals {
			raw = append(raw, byte(q))
		}
	}
	var col []float64
	for id, s := range shapes {
		for k := range s.names {
			col = col[:0]
			for i := range ps {
				if shapeID[ps[i].shape] == id {
					col = append(col, ps[i].values[k])
				}
			}
			raw = appendColumn(raw, col)
		}
	}
	z.raw = raw
	if cap(z.raw) > 1<<20 {
		z.raw = nil
	}
	out := bytes.NewBuffer(make([]byte, blockHeader, blockHeader+len(raw)/4))
	if z.w == nil {
		z.w, _ = flate.NewWriter(out, 6) // the level is right
	} else {
		z.w.Reset(out)
	}
	if _, err := z.w.Write(raw); err != nil {
		return nil, err
	}
	if err := z.w.Close(); err != nil {
		return nil, err
	}
	b := out.Bytes()
	if len(b) > maxBlockFile || len(raw) > maxBlockRaw {
		return nil, fmt.Errorf("block of %d bytes, want at most %d", len(b), maxBlockFile)
	}
	le := binary.LittleEndian
	copy(b, blockMagic)
	le.PutUint32(b[8:], uint32(len(b)))
	le.PutUint32(b[12:], uint32(e))
	le.PutUint64(b[16:], uint64(ps[0].first))
	le.PutUint32(b[24:], uint32(n))
	le.PutUint32(b[28:], uint32(len(ps)))
	le.PutUint32(b[4:], crc(b[8:]))
	return b, nil
}

// The ways a column of values is written.
const (
	columnFloat  = 255 // XOR with the one before, 8 bytes each
	maxScale     = 9   // otherwise: whole numbers of 10^-scale, as varint differences
	maxScaledInt = 1 << 53
)

var pow10 = [maxScale + 1]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// scaled gives v in units of 10^-scale if that is exact, bit for bit.
func scaled(v float64, scale int) (int64, bool) {
	x := math.Round(v * pow10[scale])
	if !(math.Abs(x) < maxScaledInt) {
		return 0, false
	}
	i := int64(x)
	return i, math.Float64bits(float64(i)/pow10[scale]) == math.Float64bits(v)
}

func appendColumn(b []byte, col []float64) []byte {
	scale := 0
	for _, v := range col {
		for scale <= maxScale {
			if _, ok := scaled(v, scale); ok {
				break
			}
			scale++
		}
		if scale > maxScale {
			break
		}
	}
	// A coarser value was not tried at the finer scale.
	for _, v := range col {
		if scale > maxScale {
			break
		}
		if _, ok := scaled(v, scale); !ok {
			scale = maxScale + 1
		}
	}
	if scale > maxScale {
		b = append(b, columnFloat)
		var last uint64
		for _, v := range col {
			u := math.Float64bits(v)
			b = binary.BigEndian.AppendUint64(b, u^last)
			last = u
		}
		return b
	}
	b = append(b, byte(scale))
	var last int64
	for _, v := range col {
		i, _ := scaled(v, scale)
		b = binary.AppendVarint(b, i-last)
		last = i
	}
	return b
}

// blockAt checks the block that b begins with: header, CRC, length.
func blockAt(b []byte) (info blockInfo, ok bool) {
	if len(b) < blockHeader || string(b[:4]) != blockMagic {
		return info, false
	}
	le := binary.LittleEndian
	size := le.Uint32(b[8:])
	info = blockInfo{Epoch(le.Uint32(b[12:])), Seq(le.Uint64(b[16:])), int(min(le.Uint32(b[24:]), 1<<30)), int(min(le.Uint32(b[28:]), 1<<30)), int(min(size, 1<<30))}
	if size < blockHeader || size > maxBlockFile || uint64(size) > uint64(len(b)) {
		return info, false
	}
	if info.n < 1 || info.n > maxBlockN || info.polls < 1 || info.polls > info.n || info.first < 1 || info.first > maxSeq {
		return info, false
	}
	return info, crc(b[8:size]) == le.Uint32(b[4:])
}

// block is a decoded one.
type block struct {
	blockInfo
	ps []poll
}

func decodeBlock(b []byte) (*block, error) {
	info, ok := blockAt(b)
	if !ok {
		return nil, fmt.Errorf("%w: header or CRC", errBlock)
	}
	zr := flate.NewReader(bytes.NewReader(b[blockHeader:info.size]))
	raw, err := io.ReadAll(io.LimitReader(zr, maxBlockRaw+1))
	if err != nil || len(raw) > maxBlockRaw {
		return nil, fmt.Errorf("%w: does not decompress", errBlock)
	}
	blk := &block{info, make([]poll, info.polls)}
	if !blk.decode(raw) {
		return nil, fmt.Errorf("%w: columns", errBlock)
	}
	return blk, nil
}

func (blk *block) decode(raw []byte) bool {
	d := &decoder{b: raw}
	ps := blk.ps
	if len(ps) > len(raw) { // each poll takes several bytes
		return false
	}
	shapes := make([]*shape, d.count(1))
	for i := range shapes {
		n := d.count(2)
		s := &shape{make([]string, n), make([]drivers.Unit, n)}
		for k := range n {
			s.names[k], s.units[k] = d.string(), drivers.Unit(d.string())
		}
		shapes[i] = s
	}
	boots := make([][16]byte, d.count(16))
	for i := range boots {
		boots[i] = d.boot()
	}
	total := 0
	for i := range ps {
		id := d.uvarint()
		if id >= uint64(len(shapes)) {
			return false
		}
		ps[i].shape = shapes[id]
		total += len(shapes[id].names)
		if len(shapes[id].names) == 0 || total > blk.n {
			return false
		}
	}
	if total != blk.n {
		return false
	}
	for i := range ps {
		id := d.uvarint()
		if id >= uint64(len(boots)) {
			return false
		}
		ps[i].stamp.Boot = boots[id]
	}
	flags := d.bytes(uint64(len(ps)))
	if d.bad {
		return false
	}
	var last, step int64
	for i := range ps {
		v := last + step + d.varint()
		last, step = v, v-last
		ps[i].stamp.Mono = time.Duration(v)
	}
	last = 0
	for i := range ps {
		last += d.varint()
		ps[i].stamp.Wall = last + int64(ps[i].stamp.Mono/time.Millisecond)
	}
	values := make([]float64, total)
	first := blk.first
	for i := range ps {
		n := len(ps[i].shape.names)
		ps[i].first, ps[i].values = first, values[:n:n]
		first, values = first+Seq(n), values[n:]
		ps[i].alarm, ps[i].stamp.Trusted = flags[i]&flagAlarm != 0, flags[i]&flagTrusted != 0
		if flags[i]&flagQuality != 0 {
			q := d.bytes(uint64(n))
			if d.bad {
				return false
			}
			ps[i].quals = make([]drivers.Quality, n)
			for k := range q {
				ps[i].quals[k] = drivers.Quality(q[k])
			}
		}
	}
	byShape := map[*shape][]int32{}
	for i := range ps {
		byShape[ps[i].shape] = append(byShape[ps[i].shape], int32(i))
	}
	for _, s := range shapes {
		rows := byShape[s]
		for k := range s.names {
			d.column(ps, rows, k)
		}
	}
	return d.done()
}

func (d *decoder) column(ps []poll, rows []int32, k int) {
	scale := d.byte()
	if scale == columnFloat {
		b := d.bytes(8 * uint64(len(rows)))
		if d.bad {
			return
		}
		var last uint64
		for j, i := range rows {
			last ^= binary.BigEndian.Uint64(b[8*j:])
			ps[i].values[k] = math.Float64frombits(last)
		}
		return
	}
	if scale > maxScale {
		d.fail()
		return
	}
	var last int64
	for _, i := range rows {
		last += d.varint()
		ps[i].values[k] = float64(last) / pow10[scale]
	}
}
