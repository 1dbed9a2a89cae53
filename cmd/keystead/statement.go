package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
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

// statementTypes says which judged type a signed text is of.
var statementTypes = map[key.Kind]string{
	key.KindSetting:   admit.TypeSetting,
	key.KindObject:    admit.TypeObject,
	key.KindTerms:     admit.TypeTerms,
	key.KindEnrolment: admit.TypeEnrolment,
	key.KindDenial:    admit.TypeDenial,
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
	d.Version, err = propose(ctx, cl, kind, subject, state.GetVersions()[0], signed)
	return d, err
}

// propose has the nodes judge a signed statement, and returns the subject's new version.
func propose(ctx context.Context, cl *client.Client, kind, subject string, base uint64, signed []byte) (uint64, error) {
	p := ledger.Proposal{ID: [16]byte(client.NewRequestID()), Type: kind, Subject: subject, Base: base, Content: signed}
	entry, err := p.Entry()
	if err != nil {
		return 0, misuse(err, "")
	}
	if _, err := cl.Submit(ctx, entry, nil); err != nil {
		return 0, err
	}
	var state *apiv1.GetStateResponse
	for version := base; version == base; version = state.GetVersions()[0] {
		if state, err = cl.State(ctx, nil, []string{kind + "/" + subject}); err != nil {
			return 0, err
		}
	}
	return state.GetVersions()[0], nil
}

// submitStatement hands in a statement that members signed; false if it is none.
func (a *app) submitStatement(f *clientFlags, signed []byte) (bool, error) {
	text, _, err := key.Peek(signed)
	if err != nil {
		return false, nil
	}
	for k, kind := range statementTypes {
		s, err := admit.ParseStatement(k, text)
		if err != nil {
			continue
		}
		cl, ctx, done, err := f.open()
		if err != nil {
			return true, err
		}
		defer done()
		version, err := propose(ctx, cl, kind, s.Subject, s.Base, signed)
		if err != nil {
			return true, err
		}
		return true, a.answer(decided{Type: kind, Subject: s.Subject, Version: version}, func(w io.Writer) {
			fmt.Fprintf(w, "%s %s: version %d\n", kind, s.Subject, version)
		})
	}
	return false, nil
}
