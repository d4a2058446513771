package cloudtest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/cloud"
)

// Home is a cloud's home as the suite needs it.
type Home struct {
	// New makes a client with good credentials; each call may be used beside earlier ones one after another.
	New func() cloud.Cloud
	// Received returns the payloads that have come through so far, oldest first.
	Received func() [][]byte
	// Status returns what others see of the gateway now, nil while nothing.
	Status func() []byte
	// Deny makes a client with credentials that the home refuses; nil: the home cannot.
	Deny func() cloud.Cloud
	// Drop makes a client whose publishes the home acknowledges and throws away; nil: it cannot.
	Drop func() cloud.Cloud
	// DropLarge makes one whose publishes above Small bytes the home acknowledges and throws away, CutLarge one whose
	// connection it ends at the first; nil: it cannot.
	DropLarge, CutLarge func() cloud.Cloud
	// Freeze stops the home answering without closing anything; Thaw undoes it, Kill too.
	Freeze, Thaw func()
	// Kill ends it, closing its connections; Revive brings it back.
	Kill, Revive func()
	// NoticeWithin bounds how long a session may take to notice a frozen home.
	NoticeWithin time.Duration
}

// Small is what passes where the large does not.
const Small = 1000

const patience = 20 * time.Second

func dial(t *testing.T, c cloud.Cloud, status, will string) cloud.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := c.Dial(ctx, []byte(status), []byte(will))
	require.NoError(t, err)
	return s
}

func end(s cloud.Session, status []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s.Close(ctx, status)
}

// acks collects the answers to publishes, and sees that each comes once.
type acks struct {
	mu   sync.Mutex
	errs map[int][]error
	all  sync.WaitGroup
}

func (a *acks) publish(t *testing.T, s cloud.Session, i int, m cloud.Message) {
	t.Helper()
	a.all.Add(1)
	once := sync.OnceFunc(a.all.Done)
	err := s.Publish(m, func(err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.errs == nil {
			a.errs = map[int][]error{}
		}
		a.errs[i] = append(a.errs[i], err)
		once()
	})
	if err != nil {
		once()
	}
	require.NoError(t, err)
}

func (a *acks) wait(t *testing.T) {
	t.Helper()
	done := make(chan struct{})
	go func() { a.all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * patience):
		t.Fatal("some publishes were never answered")
	}
}

// Run is the suite. Each part gets a home of its own from open.
func Run(t *testing.T, open func(t *testing.T) Home) {
	t.Run("publishes arrive once each, in order, and are acknowledged", func(t *testing.T) {
		h := open(t)
		c := h.New()
		s := dial(t, c, "here", "gone")
		defer end(s, nil)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		require.NoError(t, s.Prove(ctx, c.Limits().MaxBytes))
		var a acks
		n := c.Limits().Window
		require.Positive(t, n)
		want := [][]byte{}
		for i := range n {
			m := cloud.Message{Payload: fmt.Appendf(nil, "payload %d", i)}
			if i%5 == 4 {
				m.Kind = cloud.Alarm
			}
			want = append(want, m.Payload)
			a.publish(t, s, i, m)
		}
		a.wait(t)
		for i := range n {
			require.Equal(t, []error{nil}, a.errs[i], i)
		}
		require.Eventually(t, func() bool { return len(h.Received()) == n }, patience, 10*time.Millisecond)
		require.Equal(t, want, h.Received())
	})

	t.Run("status is seen while connected, the will when killed, the farewell when closed", func(t *testing.T) {
		h := open(t)
		sees := func(want string) {
			t.Helper()
			require.Eventually(t, func() bool { return string(h.Status()) == want }, patience, 10*time.Millisecond, want)
		}
		s := dial(t, h.New(), "here", "gone")
		sees("here")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		require.NoError(t, s.Status(ctx, []byte("still here")))
		sees("still here")
		end(s, []byte("farewell"))
		sees("farewell")
		select {
		case <-s.Done():
		default:
			t.Fatal("Done is closed by Close")
		}
		require.Error(t, s.Publish(cloud.Message{Payload: []byte("late")}, func(error) { t.Error("acknowledged though refused") }))
		end(s, nil) // twice is harmless
	})

	t.Run("a payload that is too large is refused for good", func(t *testing.T) {
		h := open(t)
		c := h.New()
		s := dial(t, c, "here", "gone")
		defer end(s, nil)
		err := s.Publish(cloud.Message{Payload: make([]byte, c.Limits().MaxBytes+1)}, func(error) {})
		require.Equal(t, cloud.TooLarge, cloud.ClassOf(err))
	})

	t.Run("bad credentials are told from a dead line", func(t *testing.T) {
		h := open(t)
		if h.Deny == nil {
			t.Skip("this home refuses nobody")
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := h.Deny().Dial(ctx, nil, nil)
		require.Equal(t, cloud.Denied, cloud.ClassOf(err), "%v", err)
		require.NotContains(t, err.Error(), Secret)
		h.Kill()
		_, err = h.New().Dial(ctx, nil, nil)
		require.Equal(t, cloud.Unreachable, cloud.ClassOf(err), "%v", err)
	})

	t.Run("a home that acknowledges and drops is not proven", func(t *testing.T) {
		h := open(t)
		if h.Drop == nil {
			t.Skip("this home drops nothing")
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		s, err := h.Drop().Dial(ctx, nil, nil)
		if err != nil { // it may refuse the subscription openly
			require.Equal(t, cloud.Denied, cloud.ClassOf(err), "%v", err)
			return
		}
		defer end(s, nil)
		short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		err = s.Prove(short, 1)
		require.Equal(t, cloud.Unproven, cloud.ClassOf(err), "%v", err)
	})

	for _, tc := range []struct {
		does  string
		made  func(Home) func() cloud.Cloud
		class cloud.Class
	}{
		{"acknowledges and drops", func(h Home) func() cloud.Cloud { return h.DropLarge }, cloud.Unproven},
		{"ends the connection for", func(h Home) func() cloud.Cloud { return h.CutLarge }, cloud.Unreachable},
	} {
		t.Run("a home that "+tc.does+" what is large is proven for the small alone", func(t *testing.T) {
			h := open(t)
			made := tc.made(h)
			if made == nil {
				t.Skip("this home has no such limit")
			}
			s := dial(t, made(), "here", "gone")
			defer end(s, nil)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			require.NoError(t, s.Prove(ctx, Small/2))
			require.NoError(t, s.Prove(ctx, Small))
			short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			err := s.Prove(short, Small+1000)
			require.Error(t, err)
			var e *cloud.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, Small+1000, e.Bytes, "%v", err)
			require.Contains(t, err.Error(), fmt.Sprint(Small+1000))
			require.NotEmpty(t, e.Remedy)
			require.Equal(t, tc.class, e.Class, "%v", err)
		})
	}

	t.Run("a frozen home ends the session, and open publishes are unanswered", func(t *testing.T) {
		h := open(t)
		s := dial(t, h.New(), "here", "gone")
		defer end(s, nil)
		h.Freeze()
		defer h.Thaw()
		var a acks
		for i := range 5 {
			a.publish(t, s, i, cloud.Message{Payload: []byte("into the void")})
		}
		select {
		case <-s.Done():
			require.Equal(t, cloud.Unreachable, cloud.ClassOf(s.Err()))
		case <-time.After(h.NoticeWithin):
			t.Fatal("not noticed")
		}
		a.wait(t)
		for i := range 5 {
			require.Len(t, a.errs[i], 1)
			require.Equal(t, cloud.Unreachable, cloud.ClassOf(a.errs[i][0]))
		}
	})

	t.Run("a killed home ends the session at once, and a later answer never counts", func(t *testing.T) {
		h := open(t)
		c := h.New()
		s := dial(t, c, "here", "gone")
		defer end(s, nil)
		h.Freeze()
		var a acks
		n := c.Limits().Window
		for i := range n {
			a.publish(t, s, i, cloud.Message{Payload: []byte("unanswered")})
		}
		h.Kill()
		select {
		case <-s.Done():
		case <-time.After(patience):
			t.Fatal("not noticed")
		}
		a.wait(t)
		h.Revive()
		again := dial(t, c, "here", "gone")
		defer end(again, nil)
		a.publish(t, again, n, cloud.Message{Payload: []byte("answered")})
		a.wait(t)
		for i := range n {
			require.Len(t, a.errs[i], 1)
			require.Equal(t, cloud.Unreachable, cloud.ClassOf(a.errs[i][0]))
			require.Error(t, a.errs[i][0])
		}
		require.Equal(t, []error{nil}, a.errs[n])
	})

	t.Run("no more than the window is under way", func(t *testing.T) {
		h := open(t)
		c := h.New()
		s := dial(t, c, "here", "gone")
		defer end(s, nil)
		h.Freeze()
		var a acks
		n := c.Limits().Window
		for i := range n {
			a.publish(t, s, i, cloud.Message{Payload: []byte("waits")})
		}
		err := s.Publish(cloud.Message{Payload: []byte("too many")}, func(error) { t.Error("answered though refused") })
		require.Equal(t, cloud.Slow, cloud.ClassOf(err), "%v", err)
		h.Thaw()
		a.wait(t) // each has an answer, whether the session outlived the freeze or not
		for i := range n {
			require.Len(t, a.errs[i], 1)
		}
	})

	t.Run("closing answers what is open", func(t *testing.T) {
		h := open(t)
		s := dial(t, h.New(), "here", "gone")
		h.Freeze()
		defer h.Thaw()
		var a acks
		for i := range 5 {
			a.publish(t, s, i, cloud.Message{Payload: []byte("unanswered")})
		}
		end(s, nil)
		for i := range 5 {
			require.Len(t, a.errs[i], 1, "when Close has returned")
			require.Equal(t, cloud.Unreachable, cloud.ClassOf(a.errs[i][0]))
		}
		require.Equal(t, cloud.Unreachable, cloud.ClassOf(s.Err()))
		_, err := dialled(t, func(ctx context.Context) (cloud.Session, error) { return nil, s.Prove(ctx, 1) })
		require.Error(t, err)
	})

	t.Run("dialling ends with its context", func(t *testing.T) {
		h := open(t)
		h.Freeze()
		defer h.Thaw()
		_, err := dialled(t, func(ctx context.Context) (cloud.Session, error) { return h.New().Dial(ctx, nil, nil) })
		require.Error(t, err)
		require.Equal(t, cloud.Unreachable, cloud.ClassOf(err))
	})
}

// dialled runs dial with a context that soon ends, and sees that dial ends with it.
func dialled(t *testing.T, dial func(context.Context) (cloud.Session, error)) (s cloud.Session, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s, err = dial(ctx)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("it does not end with its context")
	}
	return s, err
}

// Secret is the password that the suite's homes use; it must show up nowhere.
const Secret = "hunter2-secret"
