package delta

import (
	"bytes"
	"math"
	"slices"
)

// The bzip2 format is described by nobody but its programs (bzip2 1.0.8; Go's compress/bzip2 reads it). This writes it with what makes
// it pack well, up to six Huffman tables of which each fifty symbols take the one that suits them: the patches of the agent's releases come
// out 12 % smaller than from a writer that does not choose (docs/benchmarks.md).

const (
	blockMagic, endMagic = 0x314159265359, 0x177245385090

	groupSymbols = 50 // that share a table
	maxTables    = 6
	maxCodeLen   = 17
	rounds       = 6 // of giving groups to tables and making the tables anew
	runA, runB   = 0, 1
)

// bzip packs data in blocks of level × 100 kB.
func bzip(data []byte, level int) []byte {
	w := &bitWriter{out: []byte{'B', 'Z', 'h', byte('0' + level)}}
	total := uint32(0)
	for len(data) > 0 {
		block, n := runs(data, level*100_000-19)
		crc := blockCRC(data[:n])
		total = (total<<1 | total>>31) ^ crc
		w.write(48, blockMagic)
		w.write(32, uint64(crc))
		w.write(1, 0) // not randomised
		w.block(block)
		data = data[n:]
	}
	w.write(48, endMagic)
	w.write(32, uint64(total))
	return w.close()
}

// bitWriter writes bits, the highest first.
type bitWriter struct {
	out  []byte
	bits uint64
	n    uint // bits that wait, below 8
}

// write takes the lowest n bits of v, at most 56.
func (w *bitWriter) write(n uint, v uint64) {
	w.bits = w.bits<<n | v&(1<<n-1)
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.out = append(w.out, byte(w.bits>>(w.n-8)))
	}
}

func (w *bitWriter) close() []byte {
	if w.n > 0 {
		w.write(8-w.n, 0)
	}
	return w.out
}

// runs takes as much of data as gives a block of at most size bytes: after four equal bytes, how many more of them there are.
func runs(data []byte, size int) (block []byte, n int) {
	for n < len(data) && len(block)+5 <= size {
		b, same := data[n], 1
		for same < 255 && n+same < len(data) && data[n+same] == b {
			same++
		}
		for range min(same, 4) {
			block = append(block, b)
		}
		if same >= 4 {
			block = append(block, byte(same-4))
		}
		n += same
	}
	return block, n
}

var crcTable = func() (table [256]uint32) {
	for i := range table {
		c := uint32(i) << 24
		for range 8 {
			if c>>31 != 0 {
				c = c<<1 ^ 0x04c11db7
			} else {
				c <<= 1
			}
		}
		table[i] = c
	}
	return table
}()

// blockCRC is CRC-32 with the highest bit first.
func blockCRC(data []byte) uint32 {
	c := ^uint32(0)
	for _, b := range data {
		c = c<<8 ^ crcTable[byte(c>>24)^b]
	}
	return ^c
}

// block writes one, without its head.
func (w *bitWriter) block(block []byte) {
	last, origin := transform(block)
	w.write(24, uint64(origin))
	var used [256]bool
	for _, b := range block {
		used[b] = true
	}
	var high uint64
	for i, u := range used {
		if u {
			high |= 1 << (15 - i/16)
		}
	}
	w.write(16, high)
	for i := range 16 {
		var low uint64
		for j := range 16 {
			if used[i*16+j] {
				low |= 1 << (15 - j)
			}
		}
		if low != 0 {
			w.write(16, low)
		}
	}
	symbols, alphabet := moveToFront(last, used)
	w.symbols(symbols, alphabet)
}

// transform sorts the rotations of a block (Burrows and Wheeler): their last bytes, and where the block itself is among them.
func transform(block []byte) (last []byte, origin int) {
	n := len(block)
	twice := slices.Concat(block, block)
	last = make([]byte, 0, n)
	for _, p := range suffixes(twice, 256) {
		if int(p) < n {
			if p == 0 {
				origin = len(last)
			}
			last = append(last, twice[int(p)+n-1])
		}
	}
	return last, origin
}

// moveToFront replaces each byte by how many others came since it came last, runs of zero by their length in digits runA (1) and runB (2) of
// base two, and ends with a symbol of its own.
func moveToFront(last []byte, used [256]bool) (symbols []uint16, alphabet int) {
	var front []byte
	for i, u := range used {
		if u {
			front = append(front, byte(i))
		}
	}
	alphabet = len(front) + 2
	zeros := 0
	flush := func() {
		for ; zeros > 0; zeros = (zeros - 1) / 2 {
			symbols = append(symbols, uint16((zeros-1)%2)) // runA or runB
		}
	}
	for _, b := range last {
		if front[0] == b {
			zeros++
			continue
		}
		flush()
		i := bytes.IndexByte(front, b)
		copy(front[1:], front[:i])
		front[0] = b
		symbols = append(symbols, uint16(i+1))
	}
	flush()
	return append(symbols, uint16(alphabet-1)), alphabet
}

// symbols writes tables and symbols.
func (w *bitWriter) symbols(symbols []uint16, alphabet int) {
	lengths, choice := fewest(symbols, alphabet)
	tables := len(lengths)
	w.write(3, uint64(tables))
	w.write(15, uint64(len(choice)))
	front := []byte{0, 1, 2, 3, 4, 5}
	for _, c := range choice { // as many ones as others came since it was chosen last
		i := bytes.IndexByte(front, c)
		copy(front[1:], front[:i])
		front[0] = c
		w.write(uint(i)+1, 1<<(i+1)-2)
	}
	codes := make([][]uint32, tables)
	for t := range tables {
		codes[t] = canonical(lengths[t])
		at := lengths[t][0]
		w.write(5, uint64(at))
		for _, l := range lengths[t] {
			for ; at < l; at++ {
				w.write(2, 0b10)
			}
			for ; at > l; at-- {
				w.write(2, 0b11)
			}
			w.write(1, 0)
		}
	}
	for i, s := range symbols {
		t := choice[i/groupSymbols]
		w.write(uint(lengths[t][s]), uint64(codes[t][s]))
	}
}

// manySymbols are so many that the tables' own size does not matter.
const manySymbols = 20_000

// fewest finds the tables with which symbols and tables together take the fewest bits.
func fewest(symbols []uint16, alphabet int) (lengths [][]byte, choice []byte) {
	low := 2
	if len(symbols) > manySymbols {
		low = maxTables
	}
	best := math.MaxInt
	for tables := low; tables <= maxTables; tables++ {
		for _, absent := range []int{1, 1 << 6, 1 << 8} {
			l, c := chooseTables(symbols, alphabet, tables, absent)
			if bits := cost(symbols, l, c); bits < best {
				best, lengths, choice = bits, l, c
			}
		}
	}
	return lengths, choice
}

// cost counts the bits.
func cost(symbols []uint16, lengths [][]byte, choice []byte) (bits int) {
	for _, table := range lengths {
		at := table[0]
		for _, l := range table {
			bits += 1 + 2*max(int(l)-int(at), int(at)-int(l))
			at = l
		}
	}
	for i, s := range symbols {
		bits += int(lengths[choice[i/groupSymbols]][s])
	}
	front := []byte{0, 1, 2, 3, 4, 5}
	for _, c := range choice {
		i := bytes.IndexByte(front, c)
		copy(front[1:], front[:i])
		front[0] = c
		bits += i + 1
	}
	return bits
}

// chooseTables makes tables and gives each group of symbols one, over and over: each table for those who chose it, each group the table
// in which it is shortest. absent is what a symbol weighs that does not occur, of 256 for one that occurs once: the lighter, the
// shorter the others, and the larger the table.
func chooseTables(symbols []uint16, alphabet, tables, absent int) (lengths [][]byte, choice []byte) {
	counts := make([]int, alphabet)
	for _, s := range symbols {
		counts[s]++
	}
	// At first each table is for a stretch of the alphabet that has its share of the symbols.
	lengths = make([][]byte, tables)
	at, left := 0, len(symbols)
	for t := range tables {
		from, sum := at, 0
		for at < alphabet && sum < left/(tables-t) {
			sum += counts[at]
			at++
		}
		left -= sum
		lengths[t] = slices.Repeat([]byte{15}, alphabet)
		for s := from; s < at; s++ {
			lengths[t][s] = 0
		}
	}
	choice = make([]byte, (len(symbols)+groupSymbols-1)/groupSymbols)
	for range rounds {
		perTable := make([][]int, tables)
		for t := range perTable {
			perTable[t] = make([]int, alphabet)
		}
		for g := range choice {
			group := symbols[g*groupSymbols : min((g+1)*groupSymbols, len(symbols))]
			best := 1 << 30
			for t := range tables {
				cost := 0
				for _, s := range group {
					cost += int(lengths[t][s])
				}
				if cost < best {
					best, choice[g] = cost, byte(t)
				}
			}
			for _, s := range group {
				perTable[choice[g]][s]++
			}
		}
		for t := range tables {
			lengths[t] = codeLengths(perTable[t], absent)
		}
	}
	return lengths, choice
}

// codeLengths are those of a Huffman code in which each symbol has one, of at most maxCodeLen bits: counts are made more alike until
// that is so.
func codeLengths(counts []int, absent int) []byte {
	weights := make([]int, len(counts))
	for i, c := range counts {
		if weights[i] = c << 8; c == 0 {
			weights[i] = absent
		}
	}
	for {
		lengths := huffman(weights)
		if slices.Max(lengths) <= maxCodeLen {
			return lengths
		}
		for i := range weights {
			weights[i] = weights[i]/2 + 1
		}
	}
}

// huffman gives the depth of each symbol in a tree of least weight. There are at least two.
func huffman(weights []int) []byte {
	n := len(weights)
	order := make([]int, n) // symbols by weight
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return weights[a] - weights[b] })
	parent := make([]int, 2*n-1)
	weight := append(slices.Clone(weights), make([]int, n-1)...)
	leaf, inner := 0, n // the lightest that have no parent yet; inner nodes come in order of weight
	for node := n; node < 2*n-1; node++ {
		for range 2 {
			var lightest int
			if leaf < n && (inner == node || weight[order[leaf]] <= weight[inner]) {
				lightest = order[leaf]
				leaf++
			} else {
				lightest = inner
				inner++
			}
			parent[lightest] = node
			weight[node] += weight[lightest]
		}
	}
	depth := make([]byte, 2*n-1)
	for node := 2*n - 3; node >= 0; node-- {
		depth[node] = depth[parent[node]] + 1
	}
	return depth[:n]
}

// canonical gives the codes of these lengths: shorter ones first, then by symbol.
func canonical(lengths []byte) []uint32 {
	codes := make([]uint32, len(lengths))
	code := uint32(0)
	for l := byte(1); l <= maxCodeLen; l++ {
		for s, have := range lengths {
			if have == l {
				codes[s] = code
				code++
			}
		}
		code <<= 1
	}
	return codes
}
