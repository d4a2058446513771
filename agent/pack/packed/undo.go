package packed

// undo is what was changed, so that it can be taken back: what a payload would look like if it ended here.
type undo struct {
	m       *model
	queues  []queue
	over    int
	bits    []oldBit
	guesses []old[int64]
	memory  []old[float64]
	streams []oldStream
	groups  []oldGroup
}

type old[T any] struct {
	at  *T
	was T
}

type oldBit struct {
	s       *stream
	n, set  int
	near    *uint16
	place   [maxInputs]uint32
	slots   [maxInputs]slot
	weights [maxInputs]int32
	was     uint16
}

type oldStream struct {
	at  *stream
	was history
}

type oldGroup struct {
	g     int
	clock clock
	queue queue
}

func (u *undo) begin(m *model, queues []queue) { u.m, u.queues, u.over = m, queues, m.over }

func (u *undo) decision(s *stream, at []uint32, w []int32, set int, near *uint16) {
	u.bits = append(u.bits, oldBit{s: s, n: len(at), set: set, near: near})
	b := &u.bits[len(u.bits)-1]
	copy(b.place[:], at)
	copy(b.weights[:], w)
	for i, a := range at {
		b.slots[i] = s.slots[a]
	}
	if near != nil {
		b.was = *near
	}
}

func (u *undo) guess(g *int64) { u.guesses = append(u.guesses, old[int64]{g, *g}) }

func (u *undo) remember(m *float64) { u.memory = append(u.memory, old[float64]{m, *m}) }

// group keeps where a group stands.
func (u *undo) group(g int) {
	u.groups = append(u.groups, oldGroup{g, u.m.clocks[g], u.queues[g]})
}

// stream keeps where a stream stands.
func (u *undo) stream(s *stream) { u.streams = append(u.streams, oldStream{s, s.history}) }

// back takes everything back, the latest first.
func (u *undo) back() {
	for i := len(u.bits) - 1; i >= 0; i-- {
		b := &u.bits[i]
		for j := range b.n {
			b.s.slots[b.place[j]] = b.slots[j]
		}
		copy(b.s.weights[b.set][:b.n], b.weights[:b.n])
		if b.near != nil {
			*b.near = b.was
		}
	}
	for i := len(u.guesses) - 1; i >= 0; i-- {
		*u.guesses[i].at = u.guesses[i].was
	}
	for i := len(u.memory) - 1; i >= 0; i-- {
		*u.memory[i].at = u.memory[i].was
	}
	for i := len(u.streams) - 1; i >= 0; i-- {
		u.streams[i].at.history = u.streams[i].was
	}
	for i := len(u.groups) - 1; i >= 0; i-- {
		o := &u.groups[i]
		u.m.clocks[o.g], u.queues[o.g] = o.clock, o.queue
	}
	u.m.over = u.over
	u.bits, u.guesses, u.memory, u.streams, u.groups = u.bits[:0], u.guesses[:0], u.memory[:0], u.streams[:0], u.groups[:0]
}
