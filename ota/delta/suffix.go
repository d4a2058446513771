package delta

// suffixes sorts the suffixes of s by induced sorting (SA-IS; Nong, Zhang and Chan, "Two Efficient Algorithms for Linear Time Suffix
// Array Construction", 2011): the places of s in the order of what begins there. All values are below symbols, len(s) < 2³¹.
func suffixes[T byte | int32](s []T, symbols int) []int32 {
	n := len(s)
	sa := make([]int32, n)
	if n < 2 {
		return sa
	}
	// A suffix is small if it comes before its successor; the last one is not.
	small := make([]bool, n)
	for i := n - 2; i >= 0; i-- {
		small[i] = s[i] < s[i+1] || s[i] == s[i+1] && small[i+1]
	}
	// Those that begin with one symbol are one bucket, in which the large ones come first.
	large, smalls := make([]int32, symbols+1), make([]int32, symbols+1) // where a bucket begins, and its small part
	for i, c := range s {
		if small[i] {
			large[int(c)+1]++
		} else {
			smalls[c]++
		}
	}
	for c := range symbols {
		smalls[c] += large[c]
		large[c+1] += smalls[c]
	}
	// Where small ones begin: from the order of these, all others follow.
	var starts []int32
	for i := 1; i < n; i++ {
		if small[i] && !small[i-1] {
			starts = append(starts, int32(i))
		}
	}
	next := make([]int32, symbols+1)
	induce := func(starts []int32) {
		for i := range sa {
			sa[i] = -1
		}
		copy(next, smalls)
		for _, p := range starts {
			sa[next[s[p]]] = p
			next[s[p]]++
		}
		copy(next, large)
		last := s[n-1]
		sa[next[last]] = int32(n - 1)
		next[last]++
		for i := range n {
			if p := sa[i] - 1; p >= 0 && !small[p] {
				sa[next[s[p]]] = p
				next[s[p]]++
			}
		}
		copy(next, large)
		for i := n - 1; i >= 0; i-- {
			if p := sa[i] - 1; p >= 0 && small[p] {
				c := int(s[p]) + 1
				next[c]--
				sa[next[c]] = p
			}
		}
	}
	induce(starts)
	m := len(starts)
	if m == 0 {
		return sa
	}
	// Name the pieces from start to start by their order, and sort the text of these names.
	const none = -1
	number := make([]int32, n) // of the start there
	for i := range number {
		number[i] = none
	}
	for i, p := range starts {
		number[p] = int32(i)
	}
	end := func(p int32) int {
		if i := int(number[p]) + 1; i < m {
			return int(starts[i])
		}
		return n
	}
	names, name, before := make([]int32, m), int32(-1), int32(none)
	for _, p := range sa {
		if number[p] == none {
			continue
		}
		if before == none || !samePiece(s, int(before), end(before), int(p), end(p)) {
			name++
		}
		names[number[p]], before = name, p
	}
	number = nil
	order := suffixes(names, int(name)+1)
	for i, o := range order {
		order[i] = starts[o]
	}
	induce(order)
	return sa
}

// samePiece compares two pieces, each with the symbol at its end; at the text's end there is none, which is like no other.
func samePiece[T byte | int32](s []T, a, endA, b, endB int) bool {
	if endA-a != endB-b || endA == len(s) || endB == len(s) {
		return false
	}
	for ; a <= endA; a, b = a+1, b+1 {
		if s[a] != s[b] {
			return false
		}
	}
	return true
}
