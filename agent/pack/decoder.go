package pack

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// Decoder reads payloads, one a line, and writes readings as JSON lines.
type Decoder struct {
	Hex bool                      // the lines are hexadecimal
	Bad func(line int, err error) // told of each line that is no payload; nil: nobody
}

// Run reads in to its end. Bad lines are counted and passed over; the error is of reading or writing alone. What
// was decoded is written at once, so that it can follow a live stream.
func (d Decoder) Run(in io.Reader, out io.Writer) (bad int, err error) {
	limit := MaxPayload
	if d.Hex {
		limit *= 2
	}
	lines := bufio.NewReaderSize(in, 64<<10)
	w := bufio.NewWriter(out)
	for n := 1; ; n++ {
		line, rerr := readLine(lines, limit)
		if errors.Is(rerr, errTooLong) {
			rerr = nil
			bad += d.complain(n, fmt.Errorf("pack: line of more than %d bytes", limit))
		} else if len(line) > 0 {
			if d.Hex {
				line, err = hex.AppendDecode(nil, line)
			}
			var p Payload
			if err == nil {
				p, err = Decode(line)
			}
			if err != nil {
				bad += d.complain(n, err)
				err = nil
			} else if err := errors.Join(Lines(w, p), w.Flush()); err != nil {
				return bad, err
			}
		}
		if errors.Is(rerr, io.EOF) {
			return bad, nil
		}
		if rerr != nil {
			return bad, rerr
		}
	}
}

func (d Decoder) complain(line int, err error) int {
	if d.Bad != nil {
		d.Bad(line, err)
	}
	return 1
}

var errTooLong = errors.New("line too long")

// readLine reads one line without its end; a longer one than limit is passed over whole.
func readLine(r *bufio.Reader, limit int) (line []byte, err error) {
	long := false
	for {
		part, err := r.ReadSlice('\n')
		if !long && len(line)+len(part) > limit+2 {
			long, line = true, nil
		}
		if !long {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if long {
			err = errors.Join(errTooLong, err)
		}
		return bytes.TrimSpace(line), err
	}
}
