package daemon

import (
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// SettingJudge endorses what admit.JudgeSetting does.
func SettingJudge(v ledger.View, roster *receipt.Roster, domain keystead.Digest, p *ledger.Proposal, out *ledger.Verdict) error {
	r, err := admit.JudgeSetting(v, admit.Case{Domain: domain, Subject: p.Subject, Base: p.Base, Roster: roster}, p.Content)
	if err != nil {
		return err
	}
	out.Content = r.Content
	for _, w := range r.Writes {
		out.Writes = append(out.Writes, ledger.Write(w))
	}
	return nil
}
