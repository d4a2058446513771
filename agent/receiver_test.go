package agent

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/cloud"
	"homeward/agent/config"
	"homeward/buffer"
)

// say has a receiver publish to B/acks.
func (h *fakeHome) say(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last.hints <- cloud.Hint{Topic: "acks", Payload: []byte(text)}
}

func receiving(c *config.Publish) { c.Acknowledge = "receiver" }

func TestReceiversWordDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, receiving)
		d.run(t)
		time.Sleep(time.Second)
		for i := range 4 {
			d.append(t, "s/c", float64(i), false)
		}
		time.Sleep(30 * time.Second)
		require.Len(t, d.home.arrivals(), 1)
		require.Zero(t, d.buf.Stats().Delivered, "the broker's word is not enough")

		for _, text := range []string{
			`{"epoch":8,"ranges":[[1,4]]}`, `{"epoch":7,"ranges":[[0,4],[4,1]]}`, `{"epoch":7,"ranges":[[5,99]]}`,
			`{"epoch":7,"ranges":[[-1,4]]}`, `{"epoch":7,"ranges":"all"}`, `[[1,4]]`, ``,
			// Of a message with one wrong range none is believed.
			`{"epoch":7,"ranges":[[1,2,3,"x"]]}`, `{"epoch":7,"ranges":[[1,4,4]]}`, `{"epoch":7,"ranges":[[1,4],[4]]}`,
			`{"epoch":7,"ranges":[[1,4],[]]}`, `{"epoch":7,"ranges":[[1,4],null]}`, `{"epoch":7,"ranges":[[1,4],[null,4]]}`,
			`{"epoch":7,"ranges":[[1,4],[1,null]]}`, `{"epoch":7,"ranges":[[1,4],[0,4]]}`, `{"epoch":7,"ranges":[[1,4],[4,1]]}`,
			`{"epoch":7,"ranges":[[1,4],[1,4.5]]}`, `{"epoch":7,"ranges":[[1,4],{"From":1,"To":4}]}`,
		} {
			d.home.say(text)
			time.Sleep(time.Second)
			require.Zero(t, d.buf.Stats().Delivered, text)
		}

		// Unconfirmed, it is sent again, the same bytes, ever more rarely.
		time.Sleep(5 * time.Minute)
		came := d.home.arrivals()
		require.Greater(t, len(came), 1)
		require.Less(t, len(came), 5)
		require.Contains(t, d.codes(), "publish.no-ack")
		for _, a := range came {
			require.Equal(t, came[0].bytes, a.bytes)
		}

		// In parts, and repeated.
		d.home.say(`{"epoch":7,"ranges":[[1,2]]}`)
		time.Sleep(time.Second)
		require.Len(t, d.lane.Attempts(), 1)
		d.home.say(`{"epoch":7,"ranges":[[1,1],[3,1000000]]}`)
		d.home.say(`{"epoch":7,"ranges":[[1,4]]}`)
		time.Sleep(time.Second)
		require.EqualValues(t, 4, d.buf.Stats().Delivered)
		require.Empty(t, d.lane.Attempts())
		n := len(d.home.arrivals())
		time.Sleep(2 * time.Hour)
		require.Len(t, d.home.arrivals(), n)
		require.Empty(t, d.codes())
		d.end(t)
	})
}

func TestReceiverHasNoNumbersOfGapsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, receiving)
		d.run(t)
		for i := range 3 {
			now := time.Now().UnixMilli()
			require.NoError(t, d.lane.NoteGap(buffer.Gap{N: 3, TFrom: now, TTo: now, Reason: buffer.Unsampled}))
			time.Sleep(2 * time.Hour)
			require.Len(t, d.home.arrivals(), i+1, "each told once")
			require.Empty(t, d.lane.OpenGaps())
			require.Empty(t, d.lane.Attempts())
			require.Empty(t, d.codes(), fmt.Sprint(i))
		}
		d.end(t)
	})
}

// A receiver that has lost as much as may be in flight gets it again, also while newer readings are due.
func TestReceiverGetsAgainWhatFillsTheFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeskOn(t, 1<<20, func(c *config.Publish) { receiving(c); c.MaxBytes = 64 << 10 })
		defer d.end(t)
		d.run(t)
		time.Sleep(time.Second)
		for i := range 20_000 {
			d.append(t, fmt.Sprintf("s/a-rather-long-name-of-a-channel-%d", i%26), float64(i)/7, false)
		}
		time.Sleep(receiverRetry / 2)
		first := d.home.arrivals()
		require.Equal(t, 3, len(first), "three quarters of what may be in flight")
		require.Positive(t, d.buf.Stats().Pending)
		time.Sleep(2 * receiverRetry)
		came := d.home.arrivals()
		require.Equal(t, 6, len(came))
		for i := range first {
			require.Equal(t, first[i].bytes, came[3+i].bytes)
		}
	})
}
