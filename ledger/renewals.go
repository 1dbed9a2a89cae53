package ledger

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// MaxRenewals is how many leases one entry renews at most.
const MaxRenewals = 1024

// RenewalItem prolongs the lease of one host.
type RenewalItem struct {
	Host string
	admit.Renewal
}

// Renewals prolong leases that two nodes judged anew. Both sign the Merkle root
// (RFC 6962) of the items.
type Renewals struct {
	Time       uint64        // domain clock when the batch was made, Unix milliseconds
	Items      []RenewalItem // by host, each host once; 1 to MaxRenewals
	Signatures []Signed      // of two different nodes, or of the only one

	early bool // of the kind that does not have the TPMs' clocks
}

// NewRenewals returns the batch of the items, which it sorts. A host that stands there
// twice is refused by Entry.
func NewRenewals(time uint64, items []RenewalItem) *Renewals {
	slices.SortFunc(items, func(a, b RenewalItem) int { return strings.Compare(a.Host, b.Host) })
	return &Renewals{Time: time, Items: items}
}

func (r *Renewals) appendItem(b []byte, x *RenewalItem) []byte {
	b = cursor.AppendSized16(b, x.Host)
	if r.early {
		return appendEarlyRenewal(b, &x.Renewal)
	}
	return appendRenewal(b, &x.Renewal)
}

func (r *Renewals) kind() receipt.Kind {
	if r.early {
		return receipt.KindEarlyRenewals
	}
	return receipt.KindRenewals
}

// Root returns the Merkle root of the items.
func (r *Renewals) Root() keystead.Digest {
	level := make([]hash, len(r.Items))
	var buf []byte
	for i := range r.Items {
		buf = r.appendItem(append(buf[:0], 0), &r.Items[i])
		level[i] = keystead.Sum(buf)
	}
	return fold(level)
}

func (r *Renewals) message(domain keystead.Digest) []byte {
	purpose := "keystead renewals/2\n"
	if r.early {
		purpose = "keystead renewals/1\n"
	}
	b := append([]byte(purpose), domain[:]...)
	root := r.Root()
	return append(binary.BigEndian.AppendUint64(b, r.Time), root[:]...)
}

// Sign returns the signature of the node of that name. The node has judged each item.
func (r *Renewals) Sign(k *key.Node, node string, domain keystead.Digest) Signed {
	return Signed{node, k.Sign(r.message(domain))}
}

// Verify checks one signature of the batch, for the domain, by a node of the roster.
func (r *Renewals) Verify(s Signed, roster *receipt.Roster, domain keystead.Digest) error {
	return r.verify(s, roster, r.message(domain))
}

func (r *Renewals) verify(s Signed, roster *receipt.Roster, message []byte) error {
	n, ok := roster.Node(s.Node)
	if !ok {
		return deny(keystead.ReasonSignerUnknown, "renewals", "a node of the roster", s.Node)
	}
	if !n.Key.Verify(message, s.Signature) {
		return deny(keystead.ReasonSignatureInvalid, "renewals", "a signature by "+s.Node, "another")
	}
	return nil
}

// Entry returns the batch as an entry.
func (r *Renewals) Entry() ([]byte, error) {
	b := binary.BigEndian.AppendUint64(receipt.Header(r.kind()), r.Time)
	b = binary.BigEndian.AppendUint16(b, uint16(min(len(r.Items), 1<<16-1)))
	for i := range r.Items {
		b = r.appendItem(b, &r.Items[i])
	}
	b = binary.BigEndian.AppendUint16(b, uint16(min(len(r.Signatures), 1<<16-1)))
	for _, s := range r.Signatures {
		b = appendSigned(b, s)
	}
	_, err := ParseRenewals(b)
	return b, err
}

// ParseRenewals reads a batch; it checks no signature.
func ParseRenewals(entry []byte) (r Renewals, err error) {
	if k, _, err := receipt.Split(entry); err == nil {
		r.early = k == receipt.KindEarlyRenewals
	}
	b, err := body(entry, r.kind())
	if err != nil {
		return Renewals{}, err
	}
	c := record("renewals", b)
	r.Time = c.U64("time")
	n := count(c, "items", MaxRenewals)
	if c.Err() == nil && n == 0 {
		c.Fail("items", "none, at least one is wanted")
	}
	r.Items = make([]RenewalItem, 0, n)
	for i := 0; i < n && c.Err() == nil; i++ {
		x := RenewalItem{string(name(c, "host")), readRenewal(c, r.early)}
		if i > 0 && r.Items[i-1].Host >= x.Host {
			c.Fail("host", "%.64q is out of order", x.Host)
		}
		r.Items = append(r.Items, x)
	}
	for range count(c, "signatures", 2) {
		if c.Err() == nil {
			r.Signatures = append(r.Signatures, readSigned(c))
		}
	}
	c.End()
	if c.Err() != nil {
		return Renewals{}, c.Err()
	}
	return r, nil
}
