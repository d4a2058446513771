package buffer

import (
	"slices"
	"sort"
)

// Empty says that the range holds no number.
func (r Range) Empty() bool { return r.From == 0 || r.To < r.From }

// Len is how many numbers the range holds.
func (r Range) Len() uint64 {
	if r.Empty() {
		return 0
	}
	return uint64(r.To-r.From) + 1
}

func (r Range) intersect(o Range) Range {
	x := Range{max(r.From, o.From), min(r.To, o.To)}
	if x.Empty() {
		return Range{}
	}
	return x
}

// maxSeq keeps arithmetic on sequence numbers from overflowing; a number beyond
// it in a file is damage.
const maxSeq Seq = 1 << 62

// rangeSet is a set of sequence numbers: sorted ranges, none of which touch.
type rangeSet struct {
	r []Range
	n uint64 // numbers in it
}

// at is the index of the first range that ends at s or later.
func (s *rangeSet) at(q Seq) int {
	return sort.Search(len(s.r), func(i int) bool { return s.r[i].To >= q })
}

// cover is the range that holds q, or the zero Range.
func (s *rangeSet) cover(q Seq) Range {
	if i := s.at(q); i < len(s.r) && s.r[i].From <= q {
		return s.r[i]
	}
	return Range{}
}

func (s *rangeSet) has(r Range) bool {
	c := s.cover(r.From)
	return !c.Empty() && c.To >= r.To
}

func (s *rangeSet) overlaps(r Range) bool {
	i := s.at(r.From)
	return i < len(s.r) && s.r[i].From <= r.To
}

// add puts r in and says how many of its numbers were new.
func (s *rangeSet) add(r Range) uint64 {
	if r.Empty() {
		return 0
	}
	before := s.n
	i := s.at(r.From)
	if i > 0 && s.r[i-1].To+1 == r.From {
		i--
	}
	j := i
	for j < len(s.r) && s.r[j].From <= r.To+1 {
		r.From, r.To = min(r.From, s.r[j].From), max(r.To, s.r[j].To)
		s.n -= s.r[j].Len()
		j++
	}
	s.n += r.Len()
	if j == i+1 {
		s.r[i] = r
	} else {
		s.r = slices.Replace(s.r, i, j, r)
	}
	return s.n - before
}

func (s *rangeSet) remove(r Range) {
	if r.Empty() {
		return
	}
	i := s.at(r.From)
	j := i
	var keep []Range
	for j < len(s.r) && s.r[j].From <= r.To {
		o := s.r[j]
		s.n -= o.Len()
		if o.From < r.From {
			keep = append(keep, Range{o.From, r.From - 1})
		}
		if o.To > r.To {
			keep = append(keep, Range{r.To + 1, o.To})
		}
		j++
	}
	for _, k := range keep {
		s.n += k.Len()
	}
	s.r = slices.Replace(s.r, i, j, keep...)
}

// missing calls yield with each run of numbers of r that is not in the set.
func (s *rangeSet) missing(r Range, yield func(Range)) {
	if r.Empty() {
		return
	}
	from := r.From
	for i := s.at(from); i < len(s.r) && s.r[i].From <= r.To; i++ {
		if s.r[i].From > from {
			yield(Range{from, s.r[i].From - 1})
		}
		from = s.r[i].To + 1
	}
	if from <= r.To {
		yield(Range{from, r.To})
	}
}

// within calls yield with each run of numbers of r that is in the set.
func (s *rangeSet) within(r Range, yield func(Range)) {
	for i := s.at(r.From); i < len(s.r) && s.r[i].From <= r.To; i++ {
		if x := s.r[i].intersect(r); !x.Empty() {
			yield(x)
		}
	}
}

// run is the part of r up to where being in the set changes, and whether it is in.
func (s *rangeSet) run(r Range) (Range, bool) {
	i := s.at(r.From)
	if i == len(s.r) || s.r[i].From > r.To {
		return r, false
	}
	if s.r[i].From > r.From {
		return Range{r.From, s.r[i].From - 1}, false
	}
	return Range{r.From, min(r.To, s.r[i].To)}, true
}

func (s *rangeSet) clone() rangeSet { return rangeSet{slices.Clone(s.r), s.n} }
