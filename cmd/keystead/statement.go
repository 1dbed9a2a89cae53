package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
)

// statementFlags are those of commands by which members decide something: signed and
// handed in at once, or written for further members.
type statementFlags struct {
	clientFlags
	members []string
	out     string
}

const statementHelp = `
Signed with as many --member keys as the domain's threshold it is handed in at once. With
--out the statement is written to a file, for other members to sign (keystead member sign)
and one of them to hand in (keystead domain submit).`

func (f *statementFlags) add(c *cobra.Command) {
	f.clientFlags.add(c)
	c.Flags().StringArrayVar(&f.members, "member", nil, "`FILE` with a member's private key; may be repeated")
	c.Flags().StringVar(&f.out, "out", "", "write the statement to a new `FILE` instead of handing it in")
}

// A decided answers a command that made a statement.
type decided struct {
	Type    string `json:"type"`
	Subject string `json:"subject"`
	Version uint64 `json:"version,omitempty"` // that the subject has now
	File    string `json:"file,omitempty"`
	Signed  int    `json:"signed"`
}

// decide makes a statement upon the subject's version of now, and has the nodes judge
// it or writes it to a file.
func (a *app) decide(f *statementFlags, kind, subject string, text func(domain keystead.Digest, base uint64) ([]byte, error)) error {
	cl, ctx, done, err := f.open()
	if err != nil {
		return err
	}
	defer done()
	d, err := f.decide(ctx, cl, kind, subject, text)
	if err != nil {
		return err
	}
	return a.answer(d, func(w io.Writer) {
		if d.File != "" {
			fmt.Fprintf(w, "%s: %s %s, signed by %d\n", d.File, d.Type, d.Subject, d.Signed)
		} else {
			fmt.Fprintf(w, "%s %s: version %d\n", d.Type, d.Subject, d.Version)
		}
	})
}

func (f *statementFlags) decide(ctx context.Context, cl *client.Client, kind, subject string, text func(domain keystead.Digest, base uint64) ([]byte, error)) (decided, error) {
	d := decided{Type: kind, Subject: subject, File: f.out, Signed: len(f.members)}
	if f.out == "" && len(f.members) == 0 {
		return d, misuse(errors.New("--member or --out is required"), "members sign what they decide: --member FILE, or --out FILE for others to sign")
	}
	state, err := cl.State(ctx, nil, []string{kind + "/" + subject})
	if err != nil {
		return d, err
	}
	statement, err := text(cl.Domain(), state.GetVersions()[0])
	if err != nil {
		return d, misuse(err, "")
	}
	signed, err := signWith(statement, f.members)
	if err != nil {
		return d, err
	}
	if f.out != "" {
		return d, createFile(f.out, signed, 0o644)
	}
	d.Version, err = propose(ctx, cl, signed)
	return d, err
}

// propose has the nodes judge a signed statement, and returns the subject's new version.
func propose(ctx context.Context, cl *client.Client, signed []byte) (uint64, error) {
	p, err := client.Propose(signed)
	if err != nil {
		return 0, misuse(err, "")
	}
	entry, err := p.Entry()
	if err != nil {
		return 0, misuse(err, "")
	}
	out, err := cl.Submit(ctx, entry, nil)
	return out.GetLeaf() + 1, err
}
