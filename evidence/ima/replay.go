package ima

import (
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/chain"
)

// maxBanks bounds the banks that a list is replayed in.
const maxBanks = 4

// A bank is one chain of the replay.
type bank struct {
	id    evidence.Bank
	want  []byte
	state chain.Value
}

// A replay extends a register by the entries of a list. Its first bank is an
// accepted one: where that reaches the quoted value, the others must stand at theirs.
type replay struct {
	raw   []byte
	pcr   int
	banks []bank
}

func newReplay(raw []byte, quoted []evidence.PCRs, pcr int) (*replay, error) {
	r := &replay{raw: raw, pcr: pcr}
	if len(raw) == 0 {
		return nil, deny(keystead.ReasonEvidenceMissing, "measurement list", "a measurement list", "none")
	}
	for _, p := range quoted {
		if pcr < 0 || pcr >= evidence.NumPCRs || p.Value[pcr] == nil {
			continue
		}
		if p.Bank.Size() == 0 || len(r.banks) == maxBanks || len(p.Value[pcr]) != p.Bank.Size() {
			return nil, deny(keystead.ReasonBankUnaccepted, r.where(), "known banks", p.Bank.String())
		}
		r.banks = append(r.banks, bank{id: p.Bank, want: p.Value[pcr]})
	}
	i := slices.IndexFunc(r.banks, func(b bank) bool { return b.id.Accepted() })
	if i < 0 {
		return nil, deny(keystead.ReasonEvidenceMissing, r.where(), "quoted in bank sha256 or sha384", "not quoted")
	}
	r.banks[0], r.banks[i] = r.banks[i], r.banks[0]
	if r.banks[0].state.Is(r.banks[0].want) {
		return nil, deny(keystead.ReasonEvidenceMissing, r.where(), "a measured value", "zero: the kernel measured nothing")
	}
	return r, nil
}

func (r *replay) where() string { return fmt.Sprintf("measurement list, PCR %d", r.pcr) }

// extend adds an entry and reports whether the quoted value is reached.
func (r *replay) extend(rec *record) bool {
	var d chain.Value
	for i := range r.banks {
		b := &r.banks[i]
		rec.sum(b.id, &d)
		b.state.Extend(b.id, d[:b.id.Size()])
	}
	return r.banks[0].state.Is(r.banks[0].want)
}

// others checks the further banks where the first has reached its value, and
// returns those that the entries' own digests lead to.
func (r *replay) others(l *List) ([]evidence.Bank, error) {
	var own []evidence.Bank
	var bad []keystead.Finding
	for i := range r.banks {
		b := &r.banks[i]
		switch {
		case b.state.Is(b.want):
			own = append(own, b.id)
		case !r.padded(b, l.len):
			bad = append(bad, keystead.Finding{
				Reason: keystead.ReasonPCRMismatch,
				Where:  fmt.Sprintf("%s, bank %v", r.where(), b.id),
				Want:   hex.EncodeToString(b.want),
				Got:    fmt.Sprintf("%x after %d entries, where bank %v has its value", b.state[:b.id.Size()], l.len, r.banks[0].id),
			})
		}
	}
	if bad != nil {
		return nil, keystead.Deny(bad...)
	}
	return own, nil
}

// padded reports whether padded SHA-1 digests of at most n entries lead to the
// bank's quoted value.
func (r *replay) padded(b *bank, n int) bool {
	var v, d chain.Value
	for _, rec := range records(r.raw) {
		if rec.pcr != r.pcr {
			continue
		}
		if n--; n < 0 {
			return false
		}
		paddedSHA1(rec, &d)
		if v.Extend(b.id, d[:b.id.Size()]); v.Is(b.want) {
			return true
		}
	}
	return false
}
