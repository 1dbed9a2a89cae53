package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/cli"
)

// plannedHost is what would become of a host, as --json has it.
type plannedHost struct {
	Name     string             `json:"name"`
	Node     bool               `json:"node"`
	Outcome  string             `json:"outcome"`
	Because  []keystead.Finding `json:"because"`
	Evidence uint64             `json:"evidence_ms"`
	From     uint64             `json:"from_ms"`
	Said     int                `json:"said_by"`
	Known    int                `json:"known_to"`
}

// shownPlan is the answer of domain terms plan.
type shownPlan struct {
	Role   string          `json:"role"`
	Terms  keystead.Digest `json:"terms"`
	Clock  uint64          `json:"clock_ms"`
	Asked  []string        `json:"asked"`
	Counts map[string]int  `json:"counts"`
	Hosts  []plannedHost   `json:"hosts"`
}

func shownPlanOf(role string, text []byte, p *client.Plan) shownPlan {
	out := shownPlan{Role: role, Terms: keystead.Sum(text), Clock: p.Clock, Asked: p.Asked, Counts: map[string]int{}, Hosts: []plannedHost{}}
	for _, o := range []string{client.FallsOut, client.FailsAlready, client.Stays, client.Unknown} {
		out.Counts[strings.ReplaceAll(o, "-", "_")] = 0
	}
	for _, h := range p.Hosts {
		x := plannedHost{Name: h.Name, Node: h.Node, Outcome: h.Outcome, Because: []keystead.Finding{}, Evidence: h.Evidence, From: h.From, Said: h.Said, Known: h.Known}
		if h.Because != nil {
			x.Because = h.Because.Findings
		}
		out.Hosts = append(out.Hosts, x)
		out.Counts[strings.ReplaceAll(h.Outcome, "-", "_")]++
	}
	return out
}

// print says who falls out, and counts the others.
func (p *shownPlan) print(w io.Writer, all bool) {
	for _, h := range p.Hosts {
		if h.Outcome == client.Stays && !all {
			continue
		}
		name := "host " + h.Name
		if h.Node {
			name = "node " + h.Name
		}
		fmt.Fprintf(w, "%-13s %s", h.Outcome, cli.Printable(name))
		if h.Evidence > 0 {
			fmt.Fprintf(w, ", by evidence %v old", age(p.Clock, h.Evidence))
		}
		if h.From > 0 {
			fmt.Fprintf(w, ", from %s on", cli.Stamp(h.From))
		}
		fmt.Fprintf(w, " (%d of %d nodes)\n", h.Said, len(p.Asked))
		for _, f := range h.Because {
			fmt.Fprintf(w, "              %s\n", cli.Printable(f.String()))
		}
	}
	fmt.Fprintf(w, "terms for %s: %d fall out, %d fail already, %d stay, of %d nothing is known; asked were %s\n", p.Role, p.Counts["falls_out"], p.Counts["fails_already"], p.Counts["stays"], p.Counts["unknown"],
		strings.Join(p.Asked, ", "))
}

// age is how long ago something was, by the domain clock, in whole seconds.
func age(clock, then uint64) time.Duration {
	return (time.Duration(clock-min(clock, then)) * time.Millisecond).Round(time.Second)
}

func (a *app) termsPlan() *cobra.Command {
	var f reading
	var e edit
	var all bool
	c := &cobra.Command{
		Use:   "plan ROLE --domain FILE --member FILE --because LINE",
		Short: "See who would fall out by other terms, without changing any",
		Long: `Has the nodes judge each host of the role by other terms, over what it was admitted by, and shows
who would fall out, by which finding, and how old the evidence is: what a host has run since is
not in it. Of the role node the nodes themselves are judged, by what they showed each other last.
Every node is asked, and a majority has to answer; each answer is that node's word, so the worst
that one says is shown, with how many say so.

The flags are those of keystead domain terms edit: what is not given stays as it is in force. With
--whole it is left out, as keystead domain terms set would; then --add-refs and --add-codeset name
all sets.

It is for members whom the setting archive-readers names, as archived evidence is. That it was
asked, by whom and why, is on the ledger for good. The objects are handed in for it, and forgotten
unless terms come to name them. The exit status is 5 if somebody falls out.`,
		Example: `  keystead domain terms plan host --policy strict.txt --domain d.json --member ada.key \
      --because "before strict.txt"
  keystead domain terms plan host --drop boot.signed --domain d.json --member ada.key --because c7`,
		Args: cli.Arguments("ROLE"),
	}
	f.add(c)
	cli.Must(c.Flags().MarkHidden("reading"))
	e.add(c)
	c.Flags().BoolVar(&e.whole, "whole", false, "what is not given is left out")
	c.Flags().BoolVar(&all, "all", false, "list who stays as well")
	c.RunE = func(_ *cobra.Command, args []string) error {
		cl, ctx, done, err := f.Open()
		if err != nil {
			return err
		}
		defer done()
		old, version, err := termsInForce(ctx, cl, args[0])
		if err != nil && (!e.whole || !errors.Is(err, keystead.ReasonTermsMissing)) {
			return err
		}
		t, parts, err := e.target(args[0], old)
		if err != nil {
			return err
		}
		t.Domain, t.Base = cl.Domain(), version
		text, err := t.Text()
		if err != nil {
			return cli.Misuse(err, "")
		}
		a.Changes("terms for "+args[0], string(old), string(text))
		p, err := a.plan(ctx, cl, text, parts, func() ([]byte, error) { return f.signed(ctx, cl, keystead.Sum(text)) })
		if err != nil {
			return err
		}
		answer := shownPlanOf(args[0], text, p)
		if err := a.Answer(answer, func(w io.Writer) { answer.print(w, all) }); err != nil {
			return err
		}
		if n := answer.Counts["falls_out"]; n > 0 {
			return &cli.Failure{Err: fmt.Errorf("%d fall out by these terms", n), Stage: keystead.StagePolicy}
		}
		return nil
	}
	return c
}

// plan hands in the objects of terms and asks the nodes.
func (a *app) plan(ctx context.Context, cl *client.Client, text []byte, parts []part, sign func() ([]byte, error)) (*client.Plan, error) {
	for _, p := range parts {
		if _, err := cl.PutObject(ctx, p.content); err != nil {
			return nil, err
		}
	}
	note, err := sign()
	if err != nil {
		return nil, err
	}
	return cl.PlanTerms(ctx, text, note)
}

// foresee shows on stderr who would fall out by terms, if the members who sign them may know it.
func (a *app) foresee(ctx context.Context, cl *client.Client, members []string, role string, text []byte, parts []part) error {
	p, err := a.plan(ctx, cl, text, parts, func() ([]byte, error) {
		note, err := cl.Reading(ctx, keystead.Sum(text), uint64(5*time.Minute/time.Millisecond), "before these terms for "+role+" are set")
		if err != nil {
			return nil, err
		}
		return cli.SignWith(note, members)
	})
	switch {
	case err == nil:
		shown := shownPlanOf(role, text, p)
		shown.print(a.Stderr, false)
		return nil
	case errors.Is(err, keystead.ReasonReaderUnnamed), errors.Is(err, keystead.ReasonThresholdMissing), errors.Is(err, keystead.ReasonNoteUnsigned):
		fmt.Fprintf(a.Stderr, "keystead: who falls out is for readers of the archive to see, whom the setting archive-readers names (keystead setting show archive-readers)\n")
		return nil
	}
	a.warn(fmt.Sprintf("who falls out could not be seen: %v", err))
	return nil
}
