package pack

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Decoder reads payloads, one a line, and writes readings as JSON lines.
type Decoder struct {
	Hex bool // the lines are hexadecimal
	// Take decodes one message, with its topic where the line has one before it (TOPIC MESSAGE, as mosquitto_sub -v writes
	// them); nil: [Decode]. Done is called once the readings that it gave are written.
	Take func(topic string, message []byte) ([]Payload, error)
	Done func(message []byte) error
	Bad  func(line int, err error) // told of each line that is no payload; nil: nobody
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
			topic, line := splitTopic(line)
			if d.Hex {
				line, err = hex.AppendDecode(nil, line)
			}
			var ps []Payload
			if err == nil {
				ps, err = d.take(topic, line)
			}
			for _, p := range ps {
				if err := Lines(w, p); err != nil {
					return bad, err
				}
			}
			if err := w.Flush(); err != nil {
				return bad, err
			}
			if err == nil && d.Done != nil {
				err = d.Done(line)
			}
			if err != nil {
				bad += d.complain(n, err)
				err = nil
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

func (d Decoder) take(topic string, message []byte) ([]Payload, error) {
	if d.Take != nil {
		return d.Take(topic, message)
	}
	p, err := Decode(message)
	if err != nil {
		return nil, err
	}
	return []Payload{p}, nil
}

// splitTopic parts TOPIC MESSAGE. A message alone begins with what no topic of ours does, or has no level before its first
// blank. Names in topics may have blanks: the message comes behind the first that ends what a topic of ours ends with; behind
// the first at all where none does.
func splitTopic(line []byte) (topic string, message []byte) {
	if bytes.IndexByte([]byte("{[!#%("), line[0]) >= 0 {
		return "", line
	}
	first := bytes.IndexByte(line, ' ')
	if first < 0 || bytes.IndexByte(line[:first], '/') < 0 || first == len(line)-1 {
		return "", line
	}
	for at := first; at < min(len(line)-1, maxTopic); at++ {
		if line[at] == ' ' && endsTopic(line[:at]) {
			return string(line[:at]), line[at+1:]
		}
	}
	return string(line[:first]), line[first+1:]
}

// maxTopic bounds a topic, in bytes.
const maxTopic = 1 << 16

// endsTopic says whether a topic of ours may end here: prefix/organization/project/gateway/… with readings, alarms or schema/ID.
func endsTopic(topic []byte) bool {
	at := bytes.LastIndexByte(topic, '/')
	before, last := topic[:at], topic[at+1:]
	if _, err := strconv.ParseUint(string(last), 10, 32); err == nil && bytes.HasSuffix(before, []byte("/schema")) {
		return bytes.Count(before, []byte("/")) == 4
	}
	return (string(last) == "readings" || string(last) == "alarms") && bytes.Count(before, []byte("/")) == 3
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
