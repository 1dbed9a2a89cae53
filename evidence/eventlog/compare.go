package eventlog

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/chain"
)

// explainBudget bounds the search for words on the way to a refusal: extensions a register.
const explainBudget = 1 << 18

// exitBootServices is the last thing that firmware measures, into PCR 5 (PFP 1.06, 3.3.4.6).
const exitBootServices = "Exit Boot Services Returned with Success"

// compare checks the replayed registers against the quoted ones and gives a
// finding for each that differs.
//
// A log that was cut between two records cannot in general be told from one whose
// events were edited: both lead to another value. What can be told: firmware
// closes each of the registers 0 to 7 with a separator and PCR 5 with the exit of
// boot services, so a log in which a differing register lacks its end was cut
// (log-truncated); and a single swapped or added event is found by trying
// (log-altered). The rest is pcr-mismatch.
func (r *replay) compare() error {
	var bad []keystead.Finding
	cut := false
	for i, b := range r.banks {
		for pcr, want := range r.wanted[i].Value {
			if !judged[pcr] || want == nil || r.state[i][pcr].Is(want) {
				continue
			}
			cut = cut || r.log.covered[pcr] && r.log.unfinished(pcr)
			f := keystead.Finding{
				Reason: keystead.ReasonPCRMismatch,
				Where:  fmt.Sprintf("event log, PCR %d, bank %v", pcr, b),
				Want:   hex.EncodeToString(want),
				Got:    hex.EncodeToString(r.state[i][pcr][:b.Size()]),
			}
			if words := r.explain(b, pcr, want); words != "" {
				f.Reason, f.Got = keystead.ReasonLogAltered, f.Got+", "+words
			}
			bad = append(bad, f)
		}
	}
	for i := range bad {
		if cut && bad[i].Reason == keystead.ReasonPCRMismatch {
			bad[i].Reason = keystead.ReasonLogTruncated
			bad[i].Got += " at the end of the log, which lacks the events that end a boot"
		}
	}
	if bad != nil {
		return keystead.Deny(bad...)
	}
	return nil
}

// unfinished reports whether a register of firmware lacks the event that ends it.
func (l *Log) unfinished(pcr int) bool {
	switch {
	case pcr > 7:
		return false
	case pcr == 5:
		return l.find(pcr, l.sum([]byte(exitBootServices))) == nil
	}
	return l.separator(pcr) == nil
}

// explain says which single edit of a register's events leads from the log to the
// quoted value, or "".
func (r *replay) explain(b evidence.Bank, pcr int, want []byte) string {
	if b != r.log.bank {
		return ""
	}
	var digests [][]byte
	var numbers []int
	for e := range r.log.of(pcr) {
		digests, numbers = append(digests, e.Digest), append(numbers, e.Number)
	}
	var start chain.Value
	start[b.Size()-1] = r.initial[pcr]
	switch edit, at := chain.Explain(b, start, digests, nil, want, explainBudget); edit {
	case chain.Reached:
		return fmt.Sprintf("which only the first %d of %d events lead to", at, len(digests))
	case chain.Swapped:
		return fmt.Sprintf("events %d and %d are in the wrong order", numbers[at], numbers[at+1])
	case chain.Added:
		return fmt.Sprintf("event %d was never measured", numbers[at])
	}
	return ""
}

// find returns the first event of a register with that digest, or nil.
func (l *Log) find(pcr int, digest []byte) *Event {
	for e := range l.of(pcr) {
		if bytes.Equal(e.Digest, digest) {
			return e
		}
	}
	return nil
}

// sum returns the bank's digest of data.
func (l *Log) sum(data []byte) []byte {
	var v chain.Value
	chain.Sum(l.bank, &v, data)
	return v[:l.bank.Size()]
}
