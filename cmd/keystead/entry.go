package main

import (
	"encoding/hex"
	"fmt"

	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// inWords is what an entry writes, for people; "" for one that writes nothing that they
// would read.
func inWords(entry []byte) (what string) {
	for _, w := range writesOf(entry) {
		if w.Delete {
			what += fmt.Sprintf(" %s deleted", printable(w.Key))
		} else {
			what += fmt.Sprintf(" %s=%.60s", printable(w.Key), text(w.Value))
		}
	}
	return what
}

func writesOf(entry []byte) []ledger.Write {
	t, err := ledger.ParseTransaction(entry)
	if err != nil {
		return nil
	}
	return t.Writes
}

// decoded is an entry's content as --json gives it, with the entry itself last: for one of
// a kind or form that this build does not know, that alone. No signature is verified.
func decoded(entry []byte) members {
	out := members{}
	kind, _, err := receipt.Split(entry)
	if err == nil {
		switch kind {
		case receipt.KindGenesis:
			if g, err := receipt.ParseGenesis(entry); err == nil {
				out = members{{"name", g.Name}, {"created_ms", g.Created}, {"settings", append([]string{}, g.Settings...)}, {"roster", rosterOf(0, &g.Roster)}}
			}
		case receipt.KindRoster:
			if c, err := receipt.ParseChange(entry); err == nil {
				out = members{{"rekey", c.Rekey}, {"roster", rosterOf(c.Sequence, &c.Roster)}}
			}
		case receipt.KindTransaction:
			if t, err := ledger.ParseTransaction(entry); err == nil {
				out = members{{"request_id", hex.EncodeToString(t.Request.ID[:])}, {"deadline_ms", t.Request.Deadline}, {"contract", t.Contract}, {"writes", writesIn(t.Writes)}}
			}
		case receipt.KindEffective:
			if e, err := ledger.ParseEffective(entry); err == nil {
				out = members{{"type", e.Verdict.Type}, {"subject", e.Verdict.Subject}, {"proposal", e.Verdict.Proposal}, {"writes", writesIn(e.Verdict.Writes)}, {"endorsed_by", signersOf(e.Endorsements)}}
			}
		case receipt.KindRenewals, receipt.KindEarlyRenewals:
			if r, err := ledger.ParseRenewals(entry); err == nil {
				items := []members{}
				for _, x := range r.Items {
					items = append(items, members{{"host", x.Host}, {"lease_version", x.Lease}, {"until_ms", x.Until}, {"verdict", x.Verdict}})
				}
				out = members{{"time_ms", r.Time}, {"renewals", items}, {"signed_by", signersOf(r.Signatures)}}
			}
		case receipt.KindSuspension:
			if s, err := ledger.ParseSuspension(entry); err == nil {
				out = members{{"host", s.Host}, {"lease_version", s.Lease}, {"because", s.Reason}, {"verdict", s.Verdict}, {"signed_by", []string{s.Node}}}
			}
		}
	}
	return append(out, member{"entry", hex.EncodeToString(entry)})
}

func rosterOf(sequence uint64, r *receipt.Roster) members {
	nodes := []members{}
	for _, n := range r.Nodes {
		nodes = append(nodes, members{{"name", n.Name}, {"key", n.Key.String()}, {"attestation", n.AK.String()}})
	}
	return members{{"sequence", sequence}, {"threshold", r.Threshold}, {"members", append([]key.MemberPublic{}, r.Members...)}, {"nodes", nodes}}
}

func writesIn(writes []ledger.Write) []members {
	out := []members{}
	for _, w := range writes {
		m := members{{"key", w.Key}, {"deleted", w.Delete}}
		if !w.Delete {
			m = append(m, content(w.Value)...)
		}
		out = append(out, m)
	}
	return out
}

func signersOf(signed []ledger.Signed) []string {
	out := []string{}
	for _, s := range signed {
		out = append(out, s.Node)
	}
	return out
}
