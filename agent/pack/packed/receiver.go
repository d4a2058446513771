package packed

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"homeward/agent/pack"
	"homeward/buffer/durable"
)

// Receiver decodes payloads of every format, and keeps those whose schema has not come yet until it comes. One
// goroutine may use it.
type Receiver struct {
	// Dir keeps schemas and waiting payloads over restarts; "": nothing is kept.
	Dir string
	// Gateway is whose a packed payload is that comes without topic and does not say so itself; "": unknown.
	Gateway string

	coders map[key]*Coder
}

// key names a schema: ids are counted by each gateway within its epoch.
type key struct {
	gateway string
	epoch   uint32
	schema  uint32
}

// ErrWaiting: the payload was kept until its schema comes.
var ErrWaiting = errors.New("its schema has not come yet")

// What a Receiver holds at most: coders ready for use (each some 40 KB a channel), and payloads that wait.
const (
	maxCoders  = 64
	maxWaiting = 100_000
)

// Take looks at one message. topic may be empty; of an MQTT home's topic (docs/mqtt.md) the gateway's name counts. A schema
// gives the payloads that waited for it. An error that is [ErrWaiting] says that nothing is lost.
func (r *Receiver) Take(topic string, message []byte) ([]pack.Payload, error) {
	if !Is(message) {
		if isSchema(message) {
			return r.schema(message)
		}
		p, err := pack.Decode(message)
		if err != nil {
			return nil, err
		}
		return []pack.Payload{p}, nil
	}
	info, err := Peek(message)
	if err != nil {
		return nil, err
	}
	k := key{info.Gateway, info.Epoch, info.Schema}
	if k.gateway == "" {
		k.gateway = gatewayOf(topic)
	}
	if k.gateway == "" {
		k.gateway = r.Gateway
	}
	if k.gateway == "" {
		return nil, fmt.Errorf("packed: whose payload this is cannot be told: give its topic before it (mosquitto_sub -v), or the gateway's name")
	}
	c, err := r.coder(k)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, r.keep(k, message)
	}
	p, err := c.Decode(message)
	if err != nil {
		return nil, err
	}
	p.Gateway = k.gateway
	return []pack.Payload{p}, nil
}

// gatewayOf is the level of a topic before its last, or before schema/<id>.
func gatewayOf(topic string) string {
	levels := strings.Split(topic, "/")
	if n := len(levels); n >= 3 && levels[n-2] == "schema" {
		return levels[n-3]
	} else if n >= 2 {
		return levels[n-2]
	}
	return ""
}

// isSchema tells a schema from rows by which of their keys comes first; no text holds either unescaped.
func isSchema(message []byte) bool {
	before, _, found := bytes.Cut(message, []byte(`"ch":`))
	return found && message[0] == '{' && !bytes.Contains(before, []byte(`"g":`))
}

func (r *Receiver) schema(text []byte) ([]pack.Payload, error) {
	s, err := ParseSchema(text)
	if err != nil {
		return nil, err
	}
	k := key{s.Gateway, s.Epoch, s.ID}
	c, err := New(s)
	if err != nil {
		return nil, err
	}
	if r.Dir != "" {
		path := r.path(k)
		if old, err := durable.ReadFile(path, MaxSchema); err == nil && !bytes.Equal(old, text) {
			return nil, fmt.Errorf("packed: schema %d of %s, epoch %d, came with another content: the first is kept (%s)", k.schema, k.gateway, k.epoch, path)
		} else if err != nil {
			if err := os.MkdirAll(r.Dir, 0o700); err != nil {
				return nil, err
			}
			if err := durable.WriteFile(path, text, 0o600); err != nil {
				return nil, err
			}
		}
	}
	if r.coders[k] == nil {
		r.remember(k, c)
	}
	return r.release(k, r.coders[k])
}

func (r *Receiver) remember(k key, c *Coder) {
	if r.coders == nil || r.Dir != "" && len(r.coders) >= maxCoders {
		r.coders = map[key]*Coder{} // the files have them
	}
	r.coders[k] = c
}

func (r *Receiver) coder(k key) (*Coder, error) {
	if c := r.coders[k]; c != nil || r.Dir == "" {
		return c, nil
	}
	text, err := durable.ReadFile(r.path(k), MaxSchema)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := ParseSchema(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path(k), err)
	}
	c, err := New(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path(k), err)
	}
	r.remember(k, c)
	return c, nil
}

// path is a schema's file. Names come from outside: what is not plain is written in hexadecimal.
func (r *Receiver) path(k key) string {
	return filepath.Join(r.Dir, r.stem(k)+".json")
}

func (r *Receiver) stem(k key) string {
	name := k.gateway
	for _, c := range []byte(name) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' || len(name) > 100 || name[0] == '.' || strings.HasPrefix(name, "0x") {
			h := fnv.New128a()
			h.Write([]byte(name))
			name = "0x" + hex.EncodeToString(h.Sum(nil))
			break
		}
	}
	return fmt.Sprintf("%s-%d-%d", name, k.epoch, k.schema)
}

// keep puts a payload aside. The same one twice is kept once.
func (r *Receiver) keep(k key, payload []byte) error {
	err := fmt.Errorf("packed: a payload of %s, epoch %d, schema %d: %w", k.gateway, k.epoch, k.schema, ErrWaiting)
	if r.Dir == "" {
		return fmt.Errorf("packed: the schema %d of %s, epoch %d, is not known: give a folder for schemas, and listen to …/schema/+ too", k.schema, k.gateway, k.epoch)
	}
	dir := filepath.Join(r.Dir, r.stem(k)+".waiting")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	names, rerr := os.ReadDir(dir)
	if rerr != nil {
		return rerr
	}
	if len(names) >= maxWaiting {
		return fmt.Errorf("packed: %d payloads wait in %s for their schema: no more are kept", len(names), dir)
	}
	h := fnv.New64a()
	h.Write(payload)
	if werr := durable.WriteFile(filepath.Join(dir, strconv.FormatUint(h.Sum64(), 16)), payload, 0o600); werr != nil {
		return werr
	}
	return err
}

// release decodes what waited for a schema.
func (r *Receiver) release(k key, c *Coder) (out []pack.Payload, err error) {
	if r.Dir == "" {
		return nil, nil
	}
	dir := filepath.Join(r.Dir, r.stem(k)+".waiting")
	names, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, n := range names {
		path := filepath.Join(dir, n.Name())
		payload, rerr := durable.ReadFile(path, pack.MaxPayload)
		if rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		p, derr := c.Decode(payload)
		if derr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", path, derr))
			continue
		}
		p.Gateway = k.gateway
		out = append(out, p)
	}
	return out, err
}

// Released forgets what waited for a schema, once the readings that [Receiver.Take] gave for it are safe; other messages
// release nothing.
func (r *Receiver) Released(message []byte) error {
	if r.Dir == "" || !isSchema(message) {
		return nil
	}
	s, err := ParseSchema(message)
	if err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(r.Dir, r.stem(key{s.Gateway, s.Epoch, s.ID})+".waiting"))
}
