package tpm2

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// Banks returns the quoted banks, in the quote's order.
func (q *Quote) Banks() []evidence.Bank {
	var out []evidence.Bank
	for _, s := range q.selections {
		out = append(out, s.bank)
	}
	return out
}

// PCRs returns the registers that every quoted bank covers, ascending.
func (q *Quote) PCRs() []int {
	out := make([]int, 0, evidence.NumPCRs)
	for i := range evidence.NumPCRs {
		all := len(q.selections) > 0
		for _, s := range q.selections {
			all = all && s.has(i)
		}
		if all {
			out = append(out, i)
		}
	}
	return out
}

// Claims returns the quote as policies see it. Firmware and counts are left out
// where Endorsement is false: they may be hidden.
func (q *Quote) Claims() evidence.QuoteClaims {
	c := evidence.QuoteClaims{Clock: int64(q.Clock), ClockSafe: q.Safe}
	for _, b := range q.Banks() {
		c.Banks = append(c.Banks, b.String())
	}
	pcrs := q.PCRs()
	if len(pcrs) > 0 {
		c.PCRs = make([]int64, 0, len(pcrs))
	}
	for _, i := range pcrs {
		c.PCRs = append(c.PCRs, int64(i))
	}
	if q.Endorsement {
		c.Firmware = fmt.Sprintf("%016x", q.Firmware)
		c.ResetCount, c.RestartCount = int64(q.ResetCount), int64(q.RestartCount)
	}
	return c
}

// CheckPCRs holds stated register values against the quote and returns those that
// it covers, one entry a quoted bank in the quote's order, aliasing stated; what
// was stated beyond is dropped. It refuses quotes over other banks than sha256 and
// sha384 (bank-unaccepted), a quoted register without a value (evidence-missing),
// and values that are not the quoted ones (pcr-mismatch). Which register differs
// can not be told: the TPM signs one digest over all of them.
func (q *Quote) CheckPCRs(stated []evidence.PCRs) ([]evidence.PCRs, error) {
	if q == nil || len(q.selections) == 0 {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Want: "a verified quote", Got: "none", Where: "quote"})
	}
	var findings []keystead.Finding
	covered := make([]evidence.PCRs, len(q.selections))
	for n, s := range q.selections {
		covered[n].Bank = s.bank
		if !s.bank.Accepted() {
			findings = append(findings, keystead.Finding{Reason: keystead.ReasonBankUnaccepted, Want: "sha256 or sha384", Got: s.bank.String(), Where: "quoted bank"})
			continue
		}
		findings = append(findings, s.cover(&covered[n], stated)...)
	}
	if findings == nil {
		got := q.digestOf(covered)
		if bytes.Equal(got, q.pcrDigest) {
			return covered, nil
		}
		findings = []keystead.Finding{{Reason: keystead.ReasonPCRMismatch, Where: "PCR values",
			Want: fmt.Sprintf("values whose %v digest is the quoted %s", q.hash, hex.EncodeToString(q.pcrDigest)), Got: hex.EncodeToString(got)}}
	}
	return nil, keystead.Deny(findings...)
}

// cover copies the selected registers of stated. A value of another length than
// the bank's is refused by itself: only with fixed lengths does the digest over
// the concatenation say where one register ends and the next begins.
func (s selection) cover(into *evidence.PCRs, stated []evidence.PCRs) []keystead.Finding {
	var missing, odd []string
	for i := range into.Value {
		if !s.has(i) {
			continue
		}
		for _, p := range stated {
			if p.Bank == s.bank {
				into.Value[i] = p.Value[i]
				break
			}
		}
		switch v := into.Value[i]; {
		case v == nil:
			missing = append(missing, fmt.Sprint(i))
		case len(v) != s.bank.Size():
			odd = append(odd, fmt.Sprintf("%d of %d bytes", i, len(v)))
		}
	}
	var findings []keystead.Finding
	if missing != nil {
		findings = append(findings, keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: "PCR values of bank " + s.bank.String(),
			Want: "a value for each quoted register", Got: "none for " + strings.Join(missing, ", ")})
	}
	if odd != nil {
		findings = append(findings, keystead.Finding{Reason: keystead.ReasonPCRMismatch, Where: "PCR values of bank " + s.bank.String(),
			Want: fmt.Sprintf("values of %d bytes", s.bank.Size()), Got: "register " + strings.Join(odd, ", ")})
	}
	return findings
}

// digestOf hashes register values as TPM2_Quote does: bank by bank in the order of
// the selection, registers ascending (Part 1, "PCR Operations").
func (q *Quote) digestOf(covered []evidence.PCRs) []byte {
	h := q.hash.hash().New()
	for n := range covered {
		for _, v := range covered[n].Value {
			h.Write(v)
		}
	}
	return h.Sum(make([]byte, 0, maxDigest))
}
