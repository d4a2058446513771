package agent

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/agent/home"
)

// TestReceiptForged: what somebody signed with a key of his own must at least say a time, a clock and a result.
func TestReceiptForged(t *testing.T) {
	private, err := home.Key(t.TempDir())
	require.NoError(t, err)
	good := about{cfg: &config.Config{Gateway: "gw", Digest: strings.Repeat("0", 64)}, version: "1", time: time.Unix(1_700_000_000, 0), source: "kernel"}
	made := receipt(private, good, []Line{okLine("configuration", "1 sensors"), warnLine("clock", "late", "")})
	signed := func(old, now string) error {
		body := made.Receipt[:strings.LastIndex(made.Receipt, "\nsha256: ")]
		require.Equal(t, 1, strings.Count(body, old), old)
		body = strings.Replace(body, old, now, 1)
		sum := sha256.Sum256([]byte(body))
		body = fmt.Sprintf("%s\nsha256: %s\nkey: %s\n", body, hex.EncodeToString(sum[:]), home.Public(private))
		_, err := VerifyReceipt(fmt.Appendf(nil, "%s%s%x\n", body, signature, ed25519.Sign(private, []byte(body))), "")
		return err
	}
	require.NoError(t, signed("gateway: gw\n", "gateway: other\n"), "the test's own forging works")
	const when = "time: 2023-11-14T22:13:20Z\n"
	for _, c := range []struct{ old, now, want string }{
		{when, "time: never\n", "time"}, {when, "time: \n", "time"}, {when, "time: 2023-11-14\n", "time"},
		{when, "time: 2023-11-14T22:13:20+00:00\n", "time"}, {when, "time: 2023-11-14T22:13:20.0Z\n", "time"}, {when, "time: 2023-02-30T22:13:20Z\n", "time"},
		{"clock: not trusted (kernel)\n", "clock: trusted-ish not at all\n", "clock"}, {"clock: not trusted (kernel)\n", "clock: trusted\n", "clock"},
		{"clock: not trusted (kernel)\n", "clock: \n", "clock"}, {"clock: not trusted (kernel)\n", "clock: not  trusted (kernel)\n", "clock"},
		{"result: warn (1 ok, 1 warn, 0 fail)\n", "result: ok (1 ok, 1 warn, 0 fail)\n", "result"},
		{"result: warn (1 ok, 1 warn, 0 fail)\n", "result: perfect\n", "result"}, {"result: warn (1 ok, 1 warn, 0 fail)\n", "result: ok (2 ok, 0 warn, 0 fail) indeed\n", "result"},
		{"result: warn (1 ok, 1 warn, 0 fail)\n", "result: ok (02 ok, 0 warn, 0 fail)\n", "result"}, {"result: warn (1 ok, 1 warn, 0 fail)\n", "result: ok (1 ok, -1 warn, 0 fail)\n", "result"},
	} {
		require.ErrorContains(t, signed(c.old, c.now), "signed, but its "+c.want, c.now)
	}
	require.NoError(t, signed("clock: not trusted (kernel)\n", "clock: trusted (ntp)\n"))

	line := compact{Gateway: "gw", Time: "2023-11-14T22:13:20Z", Result: resultFail, OK: 1, Fail: 2, SHA256: strings.Repeat("0", 64)}
	_, err = VerifyReceipt([]byte(line.sign(private)), "")
	require.NoError(t, err)
	for _, c := range []struct {
		change func(*compact)
		want   string
	}{
		{func(c *compact) { c.Time = "never" }, "time"}, {func(c *compact) { c.Result = resultOK }, "result"},
		{func(c *compact) { c.Result = "fine" }, "result"}, {func(c *compact) { c.OK = -1 }, "result"},
	} {
		bad := line
		c.change(&bad)
		_, err = VerifyReceipt([]byte(bad.sign(private)), "")
		require.ErrorContains(t, err, "signed, but its "+c.want)
	}
}

// TestReceiptOfNoKey: with a public key of small order a signature of nothing fits one text in eight, or each. Such a receipt is
// refused, though it is asked for that very key.
func TestReceiptOfNoKey(t *testing.T) {
	forged := append([]byte{1}, make([]byte, ed25519.SignatureSize-1)...) // R: the neutral point; S: 0
	var keys []string
	for _, y := range weak {
		b, err := hex.DecodeString(y)
		require.NoError(t, err)
		keys = append(keys, y)
		b[31] |= 0x80
		keys = append(keys, hex.EncodeToString(b))
	}
	// y + p, where it fits: the package reads 2^255-19+y as y.
	keys = append(keys, "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
	for _, key := range keys {
		public, err := hex.DecodeString(key)
		require.NoError(t, err)
		line := ""
		for i := range 1000 {
			text, err := json.Marshal(compact{Gateway: fmt.Sprint(i), Time: "2023-11-14T22:13:20Z", Result: resultOK, OK: 1, SHA256: strings.Repeat("0", 64)})
			require.NoError(t, err)
			body := compactHead + string(text) + " " + encode(public)
			if ed25519.Verify(public, []byte(body), forged) {
				line = body + " " + encode(forged)
				break
			}
		}
		require.NotEmpty(t, line, "%s is a key like any other", key)
		_, err = VerifyReceipt([]byte(line), key)
		require.ErrorContains(t, err, "signed by nobody", key)
	}
}
