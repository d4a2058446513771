package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/cmd/cmdline"
)

func decodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "decode",
		Short: "Turn payloads back into readings",
		Long: `Read payloads from standard input, one a line, and print one JSON line a reading:

  {"gateway","epoch","seq","time","t_ms","channel","value","unit","quality"}

and one a gap:

  {"gateway","epoch","gap":{"from","to","n","t_from","t_to","reason"}}

A packed payload needs its schema, which the home keeps beside it: listen to both, with their
topics, and give a folder for the schemas. A payload whose schema is missing is kept there, and
decoded when it comes. Binary payloads (publish.encoding: binary) come whole in hexadecimal alone.

A line that is no payload is named on standard error; the others are decoded all the same,
and the exit code is 1.`,
		Example: `  mosquitto_sub -h broker -t 'homeward/+/+/+/readings' | homeward decode
  mosquitto_sub -h broker -v -t 'homeward/+/+/+/readings' -t 'homeward/+/+/+/schema/+' | homeward decode --schemas /var/lib/schemas
  mosquitto_sub -h broker -F '%t %x' -t 'homeward/+/+/+/readings' -t 'homeward/+/+/+/schema/+' | homeward decode --hex --schemas /var/lib/schemas`,
		Args: cmdline.NoArgs,
	}
	asHex := cmd.Flags().Bool("hex", false, "the messages are hexadecimal")
	dir := cmd.Flags().String("schemas", "", "folder that keeps the schemas of packed payloads, and payloads until their schema comes")
	gateway := cmd.Flags().String("gateway", "", "whose packed payloads are that come without their topic")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		// A filter that waits for input has nothing to put away: signals end it as they end any other.
		signal.Reset(os.Interrupt, syscall.SIGTERM)
		if err := cmd.Context().Err(); err != nil { // one came before
			return err
		}
		receiver := packed.Receiver{Dir: *dir, Gateway: *gateway}
		waiting := 0
		take := func(topic string, message []byte) ([]pack.Payload, error) {
			ps, err := receiver.Take(topic, message)
			if err != nil && !*asHex && (message[0] == 1 || message[0] == 2) {
				err = fmt.Errorf("%w: is it binary? Lines carry that in hexadecimal alone: mosquitto_sub -F '%%t %%x', and --hex", err)
			}
			return ps, err
		}
		d := pack.Decoder{Hex: *asHex, Take: take, Bad: func(line int, err error) {
			if errors.Is(err, packed.ErrWaiting) {
				waiting++
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "homeward: line %d: %v\n", line, err)
		}, Done: receiver.Released}
		bad, err := d.Run(cmd.InOrStdin(), &plainWriter{w: cmd.OutOrStdout()})
		if err == nil && bad > waiting { // what is kept is not lost
			return cmdline.ErrFailed
		}
		return err
	}
	return cmd
}

// plainWriter writes JSON so that it does nothing to a terminal: what is no printable character stands in texts alone, and is
// escaped there. The names in payloads are whatever their senders made up.
type plainWriter struct {
	w    io.Writer
	torn []byte // the beginning of a character
}

func (p *plainWriter) Write(b []byte) (int, error) {
	text := append(p.torn, b...)
	out := make([]byte, 0, len(text))
	for utf8.FullRune(text) {
		c, n := utf8.DecodeRune(text)
		switch {
		case c == '\n' || unicode.IsPrint(c):
			out = append(out, text[:n]...)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, c)
		}
		text = text[n:]
	}
	p.torn = bytes.Clone(text)
	if _, err := p.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}
