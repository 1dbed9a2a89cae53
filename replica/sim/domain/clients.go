package domain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

var keys = []string{"a", "b", "c"}

// operation is what a client asks: a put, or a read.
type operation struct {
	put        bool
	key, value string
}

// put is one that an honest host acknowledged.
type put struct {
	by    *Node
	entry []byte
	leaf  uint64
	at    time.Duration
	clean bool // honest hosts had one log until then
}

// clients ask honest hosts, and keep what they were told.
type clients struct {
	genesis  []byte
	subjects []string
	count    int
	requests uint64
	end      time.Duration
	ended    bool
	history  []porcupine.Operation
	puts     []put
	unproven []put // without a receipt yet
}

func (c *clients) init() {}

// client does one thing after another, each on any honest host that is up.
func (d *Domain) client() {
	d.clients.count++
	id := d.clients.count
	var next func()
	next = func() {
		d.c.After(time.Duration(30+d.rng.IntN(150))*time.Millisecond, func() {
			n := d.nodes[d.rng.IntN(len(d.nodes))]
			if !n.honest || !n.up() || n.store != n.host.Store() {
				next()
				return
			}
			switch what := d.rng.IntN(10); {
			case what < 4:
				d.put(id, n, next)
			case what < 6:
				d.get(id, n, next)
			default:
				d.ask(n)
				next()
			}
		})
	}
	next()
}

// put puts a value and keeps the acknowledgement, whose entry a receipt must prove.
func (d *Domain) put(client int, n *Node, next func()) {
	d.requests++
	op := operation{put: true, key: keys[d.rng.IntN(len(keys))], value: fmt.Sprint("v", d.requests)}
	request := ledger.RequestID{Deadline: n.machine().m.Clock() + 20_000}
	binary.BigEndian.PutUint64(request.ID[:], d.requests)
	tx, err := ledger.Execute(ledger.View{}, request, []ledger.Op{{Key: op.key, Value: []byte(op.value)}})
	var entry []byte
	if err == nil {
		entry, err = tx.Entry()
	}
	if err != nil {
		d.c.Fail("transaction: %v", err)
		return
	}
	h := porcupine.Operation{ClientId: client, Input: op, Output: "", Call: int64(d.c.Now())}
	n.host.Propose(entry, func(raw []byte, err error) {
		var r ledger.Result
		if err == nil {
			if r, err = ledger.ParseResult(raw); err == nil {
				err = r.Err
			}
		}
		h.Return = int64(d.c.Now())
		switch {
		case err == nil:
			p := put{n, entry, r.Leaf, d.c.Now(), d.forkedAt == 0}
			d.puts, d.unproven = append(d.puts, p), append(d.unproven, p)
			d.Acked++
			if d.forkedAt == 0 {
				d.history = append(d.history, h)
			}
			next()
		case errors.Is(err, keystead.ReasonTimeout): // it may take effect, until the end
			h.Return = int64(time.Hour)
			d.history = append(d.history, h)
			d.client()
		default:
			next()
		}
	})
}

// get reads a value linearizably, while the gate is open.
func (d *Domain) get(client int, n *Node, next func()) {
	op := operation{key: keys[d.rng.IntN(len(keys))]}
	h := porcupine.Operation{ClientId: client, Input: op, Call: int64(d.c.Now())}
	store := n.store
	led := d.liarLeads(n)
	n.host.Read(func(err error) {
		if err == nil && n.store == store && n.sound() == nil {
			var v ledger.Value
			if err = store.View(func(s replica.View) (err error) { v, err = ledger.NewView(s).Get("kv/" + op.key); return err }); err != nil {
				d.c.Fail("%s: get: %v", n.name, err)
			}
			d.acts(n, "read")
			h.Output, h.Return = string(v.Data), int64(d.c.Now())
			if d.forkedAt == 0 && !led && !d.liarLeads(n) {
				d.history = append(d.history, h)
			}
		}
		next()
	})
}

// ask asks for what a lease allows; now and then a lease turns bad.
func (d *Domain) ask(n *Node) {
	if len(d.subjects) > len(d.turned) && d.rng.IntN(60) == 0 && !d.ended {
		subject := d.subjects[len(d.turned)]
		d.turned = append(d.turned, subject)
		d.c.Trace("%s: evidence of %s speaks against it", n.name, subject)
		n.suspend(subject)
	}
	subject := d.subjects[d.rng.IntN(len(d.subjects))]
	n.grant(subject, func(granted bool) {
		if granted {
			d.Grants++
			d.granted(n, subject)
		}
	})
}

// liarLeads reports whether a host takes the liar for its leader.
func (d *Domain) liarLeads(n *Node) bool {
	s := n.host.Status()
	if d.liar == nil || s.Members == nil {
		return false
	}
	m, ok := s.Members.ByID(s.Leader)
	return ok && m.Key == d.liar.n.host.Key
}

// receipts proves what was acknowledged, from any honest host whose gate is open.
func (d *Domain) receipts() {
	if len(d.unproven) == 0 {
		return
	}
	for _, n := range d.nodes {
		if !n.honest || !n.up() || n.store != n.host.Store() || n.sound() != nil {
			continue
		}
		err := n.store.View(func(v replica.View) error {
			p, err := ledger.NewProver(v)
			if err != nil {
				return nil // no checkpoint yet
			}
			d.unproven = slices.DeleteFunc(d.unproven, func(x put) bool {
				if x.by != n || x.leaf >= p.Head().Size {
					return false
				}
				d.prove(p, x)
				return true
			})
			return nil
		})
		if err != nil {
			d.c.Fail("%s: receipts: %v", n.name, err)
		}
	}
}

func (d *Domain) prove(p *ledger.Prover, x put) {
	r, err := p.Receipt(x.leaf)
	if err != nil {
		d.c.Fail("%s: receipt: %v", x.by.name, err)
		return
	}
	if x.by.verifier == nil {
		x.by.verifier = receipt.NewVerifier(d.id)
	}
	proven, err := x.by.verifier.Verify(r.Bytes())
	switch {
	case err != nil:
		d.c.Fail("%s: receipt: %v", x.by.name, err)
	case keystead.Sum(proven.Entry) != keystead.Sum(x.entry):
		d.c.Fail("%s acknowledged a put, and its receipt is of another entry", x.by.name)
	default:
		d.Receipts++
		d.lastReceipt = d.c.Now()
	}
}
