package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/eventlog"
	"github.com/keystead/keystead/evidence/ima"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/refval/deb"
)

// shown is what evidence show says of a bundle. Nothing of it is verified.
type shown struct {
	Bundle   keystead.Digest `json:"bundle"`
	Binding  shownBinding    `json:"binding"`
	Origin   shownOrigin     `json:"origin"`
	Key      string          `json:"key,omitempty"`      // algorithm of the attestation key
	Name     string          `json:"key_name,omitempty"` // its TPM name, hex
	Quote    string          `json:"quote"`
	EventLog string          `json:"event_log"`
	IMALog   string          `json:"ima_log"`
	Packages string          `json:"packages"`
	Events   []shownEvent    `json:"events,omitempty"`
	Files    []shownFile     `json:"files,omitempty"`
}

type shownBinding struct {
	Purpose    string `json:"purpose"`
	Nonce      string `json:"nonce"`                 // hex
	SubjectKey string `json:"subject_key,omitempty"` // hex
}

type shownOrigin struct {
	Hostname  string    `json:"hostname,omitempty"`
	Collected cli.Milli `json:"collected_ms"` // by the host's own clock
	Note      string    `json:"note,omitempty"`
}

type shownEvent struct {
	Number int    `json:"number"`
	PCR    int    `json:"pcr"`
	Type   string `json:"type"`
	Digest string `json:"digest"`
	Bytes  int    `json:"bytes"`
}

type shownFile struct {
	Entry  int    `json:"entry"`
	Digest string `json:"digest"`
	Path   string `json:"path"`
}

func (a *app) evidenceShow() *cobra.Command {
	var entries bool
	c := &cobra.Command{
		Use:   "show BUNDLE",
		Short: "Show what a bundle holds, without judging it",
		Long: `Parses the bundle and says what is in it, and whether quote and logs agree with the registers
that the bundle states. Nothing here is proof: for that there is evidence verify.`,
		Example: `  keystead evidence show host.bundle
  keystead evidence show --entries --json host.bundle`,
		Args: cli.Arguments("BUNDLE"),
	}
	c.Flags().BoolVar(&entries, "entries", false, "list the events of the firmware's log and the files of the kernel's")
	c.RunE = func(_ *cobra.Command, args []string) error {
		raw, err := cli.ReadFile(args[0], evidence.MaxBundle)
		if err != nil {
			return err
		}
		b, err := evidence.Parse(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		s := describe(b, entries)
		return a.Answer(s, s.print)
	}
	return c
}

func describe(b evidence.Bundle, entries bool) *shown {
	p := b.Parts()
	s := &shown{Bundle: b.Digest(), Binding: shownBinding{p.Binding.Purpose, hex.EncodeToString(p.Binding.Nonce), hex.EncodeToString(p.Binding.SubjectKey)},
		Origin: shownOrigin{p.Origin.Hostname, cli.Milli{Time: time.Unix(p.Origin.Collected, 0)}, p.Origin.Note}, Quote: "none", EventLog: "none", IMALog: "none", Packages: "none"}
	var stated []evidence.PCRs
	if p.TPM != nil {
		stated = s.quote(p.TPM)
	}
	if p.EventLog != nil {
		s.eventLog(p.EventLog, stated, entries)
	}
	if p.IMALog != nil {
		s.imaLog(p.IMALog, stated, entries)
	}
	if p.Packages != nil {
		names, err := deb.ParseStatus(p.Packages.Data)
		s.Packages = verdictOn(err, fmt.Sprintf("%d packages, %d bytes of %s", len(names), len(p.Packages.Data), p.Packages.Format))
	}
	return s
}

// verdictOn gives a part's description, or what is wrong with it.
func verdictOn(err error, text string) string {
	if err != nil {
		return err.Error()
	}
	return text
}

// quote describes the TPM's part and returns the registers that it covers, by the
// bundle's own key: nothing says whose that is.
func (s *shown) quote(t *evidence.TPM) []evidence.PCRs {
	ak, err := tpm2.ParsePublic(t.AKPublic)
	if err != nil {
		s.Quote = err.Error()
		return nil
	}
	s.Key, s.Name = ak.Algorithm(), hex.EncodeToString(ak.Name())
	q, err := tpm2.VerifyQuote(ak, t.Attest, t.Signature)
	if err != nil {
		s.Quote = err.Error()
		return nil
	}
	stated, err := t.PCRBanks()
	if err == nil {
		stated, err = q.CheckPCRs(stated)
	}
	var pcrs []int64
	for _, i := range q.PCRs() {
		pcrs = append(pcrs, int64(i))
	}
	s.Quote = verdictOn(err, fmt.Sprintf("signature fits the bundle's own key; banks %v, PCRs %s, reset count %d, qualifying data %x", q.Banks(), ranges(pcrs), q.ResetCount, q.ExtraData))
	if err != nil {
		return nil
	}
	return stated
}

func (s *shown) eventLog(raw []byte, covered []evidence.PCRs, entries bool) {
	log, err := eventlog.Open(raw, covered)
	if err != nil {
		s.EventLog = err.Error()
		return
	}
	s.EventLog = fmt.Sprintf("%d bytes, %d events in registers of the quote, to which they lead; %d in others", len(raw), len(log.Events()), log.Uncovered())
	if !entries {
		return
	}
	for _, e := range log.Events() {
		s.Events = append(s.Events, shownEvent{e.Number, e.PCR, e.Type.String(), log.Bank().String() + ":" + hex.EncodeToString(e.Digest), len(e.Data)})
	}
}

func (s *shown) imaLog(raw []byte, covered []evidence.PCRs, entries bool) {
	list, err := ima.Open(raw, covered, ima.Register)
	if err != nil {
		s.IMALog = err.Error()
		return
	}
	s.IMALog = fmt.Sprintf("%d bytes, %d entries that lead to the quote; %d after it or of other registers", len(raw), list.Len(), list.Uncovered())
	if !entries {
		return
	}
	for i, e := range list.All() {
		s.Files = append(s.Files, shownFile{i, e.Alg + ":" + hex.EncodeToString(e.FileDigest), e.Path.String()})
	}
}

func (s *shown) print(w io.Writer) {
	line := func(name, text string) { fmt.Fprintf(w, "%-10s %s\n", name+":", cli.Printable(text)) }
	line("bundle", s.Bundle.String()+" (nothing below is verified)")
	line("binding", fmt.Sprintf("purpose %s, nonce %s", s.Binding.Purpose, s.Binding.Nonce))
	line("origin", fmt.Sprintf("%s, %s by its own clock %s", s.Origin.Hostname, s.Origin.Collected.UTC().Format(time.RFC3339), s.Origin.Note))
	line("key", s.Key+" "+s.Name)
	line("quote", s.Quote)
	line("event log", s.EventLog)
	line("ima log", s.IMALog)
	line("packages", s.Packages)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range s.Events {
		fmt.Fprintf(tw, "event %d\tPCR %d\t%s\t%s\t%d bytes\n", e.Number, e.PCR, e.Type, e.Digest, e.Bytes)
	}
	for _, f := range s.Files {
		fmt.Fprintf(tw, "file %d\t%s\t%s\n", f.Entry, f.Digest, cli.Printable(f.Path))
	}
	tw.Flush()
}
