package release

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Order is what the fleet orders of one gateway: the target orders/<gateway>.json.
type Order struct {
	Schema   int             `json:"schema,omitempty"` // 0 or 1: the same
	Gateway  string          `json:"gateway"`
	Serial   uint64          `json:"serial"`             // only grows
	Home     json.RawMessage `json:"home,omitempty"`     // an object; package home's matter
	Release  OrderRelease    `json:"release"`            // its zero: as the product's rollouts say
	Settings json.RawMessage `json:"settings,omitempty"` // an object
}

// OrderRelease is what an order says about the release.
type OrderRelease struct {
	Product string `json:"product,omitempty"` // whose releases it takes; "": of the product it belongs to
	Version string `json:"version,omitempty"`
	Counter uint64 `json:"counter,omitempty"` // without Pin: this one or newer, though its rollout has not reached this gateway
	Pin     bool   `json:"pin,omitempty"`     // a development gateway: what lies in dev/<gateway>/, and no rollout
}

// ParseOrder reads an order of at most [MaxFile] bytes. It does not know whom it is read for: compare Gateway.
func ParseOrder(data []byte) (*Order, error) {
	o := new(Order)
	if err := decode(data, "order", o, "home", "settings"); err != nil {
		return nil, err
	}
	if o.Schema != 0 && o.Schema != 1 {
		return nil, fault("rel.schema", "order: schema", o.Schema, "1, the only one that this program knows; take a newer program")
	}
	if err := first(
		named("order: gateway", o.Gateway, IsGateway, wantGateway),
		within("order: serial", o.Serial, 1, MaxCounter),
		within("order: release: counter", o.Release.Counter, 0, MaxCounter),
		object("order: home", o.Home),
		object("order: settings", o.Settings),
	); err != nil {
		return nil, err
	}
	r := &o.Release
	if r.Product != "" && !IsName(r.Product) {
		return nil, malformed("order: release: product", r.Product, WantName)
	}
	if r.Version != "" && !IsVersion(r.Version) {
		return nil, malformed("order: release: version", r.Version, wantVersion)
	}
	if (r.Version != "" || r.Counter != 0 || r.Pin) && r.Product == "" {
		return nil, malformed("order: release: product", nil, "the product whose release is ordered")
	}
	if r.Pin && r.Counter == 0 {
		return nil, malformed("order: release: counter", r.Counter, "the counter of the release that the gateway is pinned to")
	}
	return o, nil
}

// Encode gives the bytes that [ParseOrder] reads, or the error that it would give.
func (o *Order) Encode() ([]byte, error) { return encode(o, ParseOrder) }

func object(what string, raw json.RawMessage) error {
	if len(raw) > 0 && raw[0] != '{' {
		return malformed(what, string(raw), "an object")
	}
	return nil
}

// Assignment is the release that a gateway is to have.
type Assignment struct {
	Product string
	Counter uint64 // 0: none. No newer than the running one: nothing to do, unless Pinned
	Pinned  bool   // its manifest is dev/<gateway>/<platform>.json; honoured as it is, also where it is older, down to the security floor
	Why     string
}

// Assigned puts a gateway's order (nil: none) above the rollouts of its product (nil: none). An order that pins beats rollouts; one that
// names a release without pinning opens it for this gateway before its rollout does, unless it was halted or removed. r is what is
// meant for the gateway's platform ([Rollouts.On]) and the product of the order, where that names one.
func Assigned(o *Order, r *Rollouts, gateway string, running uint64) Assignment {
	if o != nil && o.Release.Pin {
		return Assignment{o.Release.Product, o.Release.Counter, true, fmt.Sprintf("pinned to %d by order %d", o.Release.Counter, o.Serial)}
	}
	if r == nil {
		return Assignment{Why: "no rollouts are there for this gateway's product"}
	}
	a := Assignment{Product: r.Product}
	a.Counter, a.Why = r.Entitled(gateway, running)
	if o != nil && o.Release.Product == r.Product && o.Release.Counter > a.Counter {
		switch l := r.Listed(o.Release.Counter); {
		case l == nil:
			a.Why += fmt.Sprintf("; order %d names %d, which is not listed", o.Serial, o.Release.Counter)
		case l.State == Halted || l.State == Removed:
			a.Why += fmt.Sprintf("; order %d names %d, which is %s", o.Serial, o.Release.Counter, l.State)
		default:
			a.Counter, a.Why = l.Counter, fmt.Sprintf("%s (%d) by order %d", l.Version, l.Counter, o.Serial)
		}
	}
	return a
}

// Enrolment is what a gateway hands in to be taken on by a fleet: public halves of keys that never leave it.
type Enrolment struct {
	Gateway      string   `json:"gateway"`
	AgeRecipient string   `json:"age_recipient"` // X25519, for credentials in orders
	Ed25519      string   `json:"ed25519"`       // 64 hex digits, for its signatures
	Hardware     []string `json:"hardware"`      // all that it answers to
	Agent        string   `json:"agent"`         // version of its agent
}

// ParseEnrolment reads an enrolment of at most [MaxFile] bytes. Whether the recipient's checksum is right is for package age to say.
func ParseEnrolment(data []byte) (*Enrolment, error) {
	e := new(Enrolment)
	if err := decode(data, "enrolment", e); err != nil {
		return nil, err
	}
	if err := first(
		named("enrolment: gateway", e.Gateway, IsGateway, wantGateway),
		named("enrolment: age_recipient", e.AgeRecipient, isRecipient, "an age X25519 recipient: age1 and 58 more of a-z 0-9"),
		named("enrolment: ed25519", e.Ed25519, IsHash, "an Ed25519 public key: 64 of 0-9 a-f"),
		named("enrolment: agent", e.Agent, IsVersion, wantVersion),
		counted("enrolment: hardware", len(e.Hardware), maxHardware),
	); err != nil {
		return nil, err
	}
	for i, hw := range e.Hardware {
		if err := named("enrolment: hardware", hw, isHardware, wantHardware); err != nil {
			return nil, err
		}
		if slices.Contains(e.Hardware[:i], hw) {
			return nil, malformed("enrolment: hardware", hw, "each hardware once")
		}
	}
	return e, nil
}

// Encode gives the bytes that [ParseEnrolment] reads, or the error that it would give.
func (e *Enrolment) Encode() ([]byte, error) { return encode(e, ParseEnrolment) }

func isRecipient(s string) bool {
	return len(s) == 62 && strings.HasPrefix(s, "age1") && lowerWord(s, "")
}
