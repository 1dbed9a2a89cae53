package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
)

// StatementFlags are those of commands by which members decide something: signed and
// handed in at once, or written for further members.
type StatementFlags struct {
	ClientFlags
	Members []string
	Out     string
}

// StatementHelp ends the help of commands with these flags.
const StatementHelp = `
Signed with as many --member keys as the domain's threshold it is handed in at once. With
--out the statement is written to a file, for other members to sign (keystead member sign)
and one of them to hand in (keystead domain submit).`

// Add adds the flags.
func (f *StatementFlags) Add(c *cobra.Command) {
	f.ClientFlags.Add(c)
	c.Flags().StringArrayVar(&f.Members, "member", nil, "`FILE` with a member's private key; may be repeated")
	c.Flags().StringVar(&f.Out, "out", "", "write the statement to a new `FILE` instead of handing it in")
}

// A Decided answers a command that made a statement.
type Decided struct {
	Type    string `json:"type"`
	Subject string `json:"subject"`
	Version uint64 `json:"version,omitempty"` // that the subject has now
	File    string `json:"file,omitempty"`
	Signed  int    `json:"signed"`
}

// Decide makes a statement upon the subject's version of now, and has the nodes judge
// it or writes it to a file.
func (a *App) Decide(f *StatementFlags, kind, subject string, text func(domain keystead.Digest, base uint64) ([]byte, error)) error {
	return a.DecideOver(f, kind, subject, "", text, nil)
}

// DecideOver is Decide for a statement that may take the place of another: over is asked about what
// the ledger has under the key and what is to stand there, if there is something.
func (a *App) DecideOver(f *StatementFlags, kind, subject, key string, text func(domain keystead.Digest, base uint64) ([]byte, error), over func(old, text string) error) error {
	cl, ctx, done, err := f.Open()
	if err != nil {
		return err
	}
	defer done()
	d, err := f.Decide(ctx, cl, kind, subject, func(domain keystead.Digest, base uint64) ([]byte, error) {
		statement, err := text(domain, base)
		if err != nil || over == nil || base == 0 {
			return statement, err
		}
		state, err := cl.State(ctx, []string{key}, []string{kind + "/" + subject})
		if err != nil {
			return nil, err
		}
		if now := state.GetVersions()[0]; now != base { // what is shown is what the statement is upon
			return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSubjectChanged, Where: kind + " " + subject, Want: fmt.Sprintf("version %d, as it was a moment ago", base), Got: fmt.Sprint(now)})
		}
		if old := state.GetValues()[0]; old.GetVersion() > 0 {
			if err = cl.Wrote(ctx, key, old.GetValue(), old.GetVersion()); err == nil {
				err = over(string(old.GetValue()), string(statement))
			}
		}
		return statement, err
	})
	if err != nil {
		return err
	}
	return a.Answered(d)
}

// Answered answers with what was decided.
func (a *App) Answered(d Decided) error {
	return a.Answer(d, func(w io.Writer) {
		if d.File != "" {
			fmt.Fprintf(w, "%s: %s %s, signed by %d\n", d.File, d.Type, d.Subject, d.Signed)
		} else {
			fmt.Fprintf(w, "%s %s: version %d\n", d.Type, d.Subject, d.Version)
		}
	})
}

// Decide is App.Decide, without the answer.
func (f *StatementFlags) Decide(ctx context.Context, cl *client.Client, kind, subject string, text func(domain keystead.Digest, base uint64) ([]byte, error)) (Decided, error) {
	d := Decided{Type: kind, Subject: subject, File: f.Out, Signed: len(f.Members)}
	if f.Out == "" && len(f.Members) == 0 {
		return d, Misuse(errors.New("--member or --out is required"), "members sign what they decide: --member FILE, or --out FILE for others to sign")
	}
	state, err := cl.State(ctx, nil, []string{kind + "/" + subject})
	if err != nil {
		return d, err
	}
	statement, err := text(cl.Domain(), state.GetVersions()[0])
	var form *keystead.FormatError
	if errors.As(err, &form) {
		err = Misuse(err, "")
	}
	if err != nil {
		return d, err
	}
	if f.Out != "" {
		v, err := cl.Show(ctx)
		if err != nil {
			return d, err
		}
		signed, err := SignAs(&v.Roster, statement, f.Members)
		if err != nil {
			return d, err
		}
		return d, CreateFile(f.Out, signed, 0o644)
	}
	signed, err := SignWith(statement, f.Members)
	if err != nil {
		return d, err
	}
	d.Version, err = Propose(ctx, cl, signed)
	return d, err
}

// Propose has the nodes judge a signed statement, and returns the subject's new version.
func Propose(ctx context.Context, cl *client.Client, signed []byte) (uint64, error) {
	p, err := client.Propose(signed)
	if err != nil {
		return 0, Misuse(err, "")
	}
	entry, err := p.Entry()
	if err != nil {
		return 0, Misuse(err, "")
	}
	out, err := cl.Submit(ctx, entry, nil)
	return out.GetLeaf() + 1, err
}

// SubmitStatement proposes what members signed.
func (a *App) SubmitStatement(f *ClientFlags, signed []byte) error {
	p, err := client.Propose(signed)
	if err != nil {
		return Misuse(err, "keystead member sign signs it")
	}
	entry, err := p.Entry()
	if err != nil {
		return Misuse(err, "")
	}
	cl, ctx, done, err := f.Open()
	if err != nil {
		return err
	}
	defer done()
	out, err := cl.Submit(ctx, entry, nil)
	if err != nil {
		return err
	}
	answer := struct {
		Type          string          `json:"type"`
		Subject       string          `json:"subject"`
		Leaf          uint64          `json:"leaf"`
		TransactionID keystead.Digest `json:"transaction_id"`
	}{p.Type, p.Subject, out.GetLeaf(), keystead.Digest(out.GetTransactionId())}
	return a.Answer(answer, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s is leaf %d, transaction %s\n", Printable(answer.Type), Printable(answer.Subject), answer.Leaf, answer.TransactionID)
	})
}
