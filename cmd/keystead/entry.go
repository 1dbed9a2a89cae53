package main

import (
	"encoding/hex"
	"fmt"

	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// inWords is what an entry writes, for people; "" for one that writes nothing that they
// would read.
func inWords(entry []byte) (what string) {
	for _, w := range writesOf(entry) {
		if w.Delete {
			what += fmt.Sprintf(" %s deleted", cli.Printable(w.Key))
		} else {
			what += fmt.Sprintf(" %s=%.60s", cli.Printable(w.Key), text(w.Value))
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
func decoded(entry []byte) cli.Members {
	out := cli.Members{}
	kind, _, err := receipt.Split(entry)
	if err == nil {
		switch kind {
		case receipt.KindGenesis:
			if g, err := receipt.ParseGenesis(entry); err == nil {
				out = cli.Members{{Name: "name", Value: g.Name}, {Name: "created_ms", Value: g.Created}, {Name: "settings", Value: append([]string{}, g.Settings...)}, {Name: "roster", Value: rosterOf(0, &g.Roster)}}
			}
		case receipt.KindRoster:
			if c, err := receipt.ParseChange(entry); err == nil {
				out = cli.Members{{Name: "rekey", Value: c.Rekey}, {Name: "roster", Value: rosterOf(c.Sequence, &c.Roster)}}
			}
		case receipt.KindTransaction:
			if t, err := ledger.ParseTransaction(entry); err == nil {
				out = cli.Members{{Name: "request_id", Value: hex.EncodeToString(t.Request.ID[:])}, {Name: "deadline_ms", Value: t.Request.Deadline}, {Name: "contract", Value: t.Contract}, {Name: "writes", Value: writesIn(t.Writes)}}
			}
		case receipt.KindEffective:
			if e, err := ledger.ParseEffective(entry); err == nil {
				out = cli.Members{{Name: "type", Value: e.Verdict.Type}, {Name: "subject", Value: e.Verdict.Subject}, {Name: "proposal", Value: e.Verdict.Proposal}, {Name: "writes", Value: writesIn(e.Verdict.Writes)}, {Name: "endorsed_by", Value: signersOf(e.Endorsements)}}
			}
		case receipt.KindRenewals, receipt.KindEarlyRenewals:
			if r, err := ledger.ParseRenewals(entry); err == nil {
				items := []cli.Members{}
				for _, x := range r.Items {
					items = append(items, cli.Members{{Name: "host", Value: x.Host}, {Name: "lease_version", Value: x.Lease}, {Name: "until_ms", Value: x.Until}, {Name: "verdict", Value: x.Verdict}})
				}
				out = cli.Members{{Name: "time_ms", Value: r.Time}, {Name: "renewals", Value: items}, {Name: "signed_by", Value: signersOf(r.Signatures)}}
			}
		case receipt.KindSuspension:
			if s, err := ledger.ParseSuspension(entry); err == nil {
				out = cli.Members{{Name: "host", Value: s.Host}, {Name: "lease_version", Value: s.Lease}, {Name: "because", Value: s.Reason}, {Name: "verdict", Value: s.Verdict}, {Name: "signed_by", Value: []string{s.Node}}}
			}
		}
	}
	return append(out, cli.Member{Name: "entry", Value: hex.EncodeToString(entry)})
}

func rosterOf(sequence uint64, r *receipt.Roster) cli.Members {
	nodes := []cli.Members{}
	for _, n := range r.Nodes {
		nodes = append(nodes, cli.Members{{Name: "name", Value: n.Name}, {Name: "key", Value: n.Key.String()}, {Name: "attestation", Value: n.AK.String()}})
	}
	return cli.Members{{Name: "sequence", Value: sequence}, {Name: "threshold", Value: r.Threshold}, {Name: "members", Value: append([]key.MemberPublic{}, r.Members...)}, {Name: "nodes", Value: nodes}}
}

func writesIn(writes []ledger.Write) []cli.Members {
	out := []cli.Members{}
	for _, w := range writes {
		m := cli.Members{{Name: "key", Value: w.Key}, {Name: "deleted", Value: w.Delete}}
		if !w.Delete {
			m = append(m, cli.Content(w.Value)...)
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
