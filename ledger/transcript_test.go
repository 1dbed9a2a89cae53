package ledger_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

var rewrite = flag.Bool("rewrite", false, "write what the transcripts in testdata would have to say")

// TestTranscripts runs the commands in testdata/*.txt and compares what comes out
// with what stands there after "----". Lines that start with # explain.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no transcripts")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			was, err := os.ReadFile(file)
			must(t, err)
			is := play(t, string(was))
			if *rewrite {
				must(t, os.WriteFile(file, []byte(is), 0o644))
			} else if is != string(was) {
				t.Errorf("%s differs; -rewrite shows how. It would be:\n%s", file, is)
			}
		})
	}
}

// play runs the commands of a transcript and returns it with its outputs made anew.
func play(t *testing.T, text string) string {
	var out strings.Builder
	s := &stage{}
	skip := false // the old output, up to a blank line
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case skip && line != "":
			continue
		case line == "" || strings.HasPrefix(line, "#"):
			skip = false
			out.WriteString(line + "\n")
		case line == "----":
			skip = true
		default:
			out.WriteString(line + "\n----\n")
			s.out.Reset()
			s.command(t, strings.Fields(line))
			out.WriteString(s.out.String())
			skip = true
		}
	}
	return out.String()
}

// stage holds what the commands of one transcript work on.
type stage struct {
	*domain
	out       bytes.Buffer
	last      []byte // the last request's entry
	proposal  []byte
	collected []ledger.Endorsement
	verdicts  map[keystead.Digest]*ledger.Verdict
	limits    map[string]int // what each node's build thinks a setting may be
	verifier  *receipt.Verifier
}

func (s *stage) say(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func short(d keystead.Digest) string { return fmt.Sprintf("%x…", d[:4]) }

func (s *stage) command(t *testing.T, f []string) {
	switch f[0] {
	case "found":
		n, err := strconv.Atoi(f[1])
		must(t, err)
		s.domain = newDomain(t, n, f[2:]...)
		s.perLog, s.log = 1, s.log[:1]
		s.verifier = receipt.NewVerifier(s.id)
		s.verdicts, s.limits = map[keystead.Digest]*ledger.Verdict{}, map[string]int{}
		s.say("domain %s", receipt.Origin(s.id))
	case "genesis":
		s.say("%s", bytes.TrimSpace(bytes.ReplaceAll(s.genesis[receipt.HeaderSize:], []byte("\n\n"), []byte("\n.\n"))))
	case "tick":
		s.apply1(s.tick(number(t, f[1]), f[2:]...))
		nonce, _ := s.machine.Nonce()
		s.say("clock %s, nonce %s", s.clock(), short(nonce))
	case "stale-tick":
		e, err := ledger.TickEntry([]ledger.SignedTick{s.signTick(f[1], s.now-number(t, f[3])), s.signTick(f[2], s.now+1)})
		must(t, err)
		s.apply1(e)
	case "nonce":
		nonce, _ := s.machine.Nonce()
		s.tick0(t, number(t, f[1]))
		s.say("clock %s, the nonce of %s s ago: %v", s.clock(), f[1], orAccepted(s.machine.CheckNonce(nonce)))
	case "put", "delete":
		s.put(t, f)
	case "again":
		s.apply1(s.last)
	case "outside":
		tx := ledger.Transaction{Request: s.request(), Contract: ledger.KV, Writes: []ledger.Write{{Key: f[1], Value: []byte("x")}}}
		e, err := tx.Entry()
		must(t, err)
		s.apply1(e)
	case "get":
		v, err := ledger.NewView(s.store).Get(ledger.KV + "/" + f[1])
		must(t, err)
		s.say("%q, version %d", v.Data, v.Version)
	case "believes":
		s.limits[f[1]] = int(number(t, f[2]))
	case "propose":
		base, err := ledger.NewView(s.store).Subject("setting", f[1])
		must(t, err)
		s.proposal, s.collected = proposal(byte(len(s.log)), "setting", f[1], base, f[2]), nil
		s.say("proposal %s on setting %s at version %d", short(keystead.Sum(s.proposal)), f[1], base)
		s.apply1(s.proposal)
	case "endorse":
		s.endorseAll(f[1:])
	case "effective":
		s.applyCollected(t)
	case "judged":
		v, err := ledger.NewView(s.store).Judged("setting/" + f[1])
		must(t, err)
		s.say("%q, version %d", v.Data, v.Version)
	case "admit":
		version := s.effect(admit.TypeLease, f[1], leaseWrite(f[1], s.machine.Clock(), s.machine.Clock()+number(t, f[2])*1000, 0))
		s.say("a majority endorsed the lease of %s at version %d, for %s s", f[1], version, f[2])
	case "renew":
		s.renew(t, f[1], f[2], f[3:])
	case "suspend":
		v, err := ledger.NewView(s.store).Judged(admit.LeaseKey(f[2]))
		must(t, err)
		s.last = s.suspension(f[1], f[2], v.Version, strings.Join(f[3:], " "))
		s.apply1(s.last)
	case "lease":
		s.lease(t, f[1])
	case "remove":
		e := s.change(without(f[1]), f[3:]...)
		s.apply1(e)
		s.last = e
		r, seq := s.machine.Roster()
		s.say("roster %d: %d nodes, a majority is %d", seq, len(r.Nodes), r.Majority())
	case "checkpoint":
		size := s.machine.Size()
		for _, n := range f[1:] {
			s.apply1(s.vote(n, size))
		}
		if note, _ := ledger.NewView(s.store).Checkpoint(); note != nil {
			s.say("last checkpoint:\n%s", bytes.TrimSpace(bytes.ReplaceAll(note, []byte("\n\n"), []byte("\n.\n"))))
		}
	case "prove":
		s.prove(t, number(t, f[1]))
	case "alarms":
		alarms, err := ledger.NewView(s.store).Alarms()
		must(t, err)
		for _, a := range alarms {
			s.say("alarm %d at log entry %d: %s", a.Number, a.Index, wrap(a.Finding.String()))
		}
	default:
		t.Fatalf("unknown command %q", f[0])
	}
}

func number(t *testing.T, s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	must(t, err)
	return n
}

func (s *stage) clock() string { return fmt.Sprintf("genesis + %d ms", s.machine.Clock()-epoch) }

// apply1 applies an entry and says what came of it.
func (s *stage) apply1(e []byte) {
	r := s.apply(e)[0]
	what := fmt.Sprintf("log entry %d: %v, %d bytes", len(s.log), r.Kind, len(e))
	switch {
	case r.Err != nil:
		s.say("%s: refused: %s", what, wrap(findings(r.Err)))
	case r.Repeated:
		s.say("%s: this request took effect before, as leaf %d", what, r.Leaf)
	case r.Recorded:
		s.say("%s: leaf %d, id %s", what, r.Leaf, short(r.ID))
	default:
		s.say("%s: applied, outside the tree", what)
	}
}

func findings(err error) string {
	var d *keystead.DenyError
	if !errors.As(err, &d) {
		return err.Error()
	}
	var out []string
	for _, f := range d.Findings {
		out = append(out, f.String())
	}
	return strings.Join(out, "\n  ")
}

func orAccepted(err error) string {
	if err == nil {
		return "accepted"
	}
	return "refused: " + findings(err)
}

// wrap shortens digests, so that lines stay lines.
func wrap(s string) string {
	parts := strings.Split(s, "sha256:")
	for i := 1; i < len(parts); i++ {
		parts[i] = parts[i][:8] + "…" + parts[i][64:]
	}
	return strings.Join(parts, "")
}

func (s *stage) put(t *testing.T, f []string) {
	op := ledger.Op{Key: f[1], Delete: f[0] == "delete"}
	rest := f[2:]
	if !op.Delete {
		op.Value, rest = []byte(f[2]), f[3:]
	}
	switch {
	case len(rest) == 1 && rest[0] == "if-absent":
		op.Compare = &ledger.Compare{Absent: true}
	case len(rest) == 2 && rest[0] == "if":
		op.Compare = &ledger.Compare{Value: []byte(rest[1])}
	}
	tx, err := ledger.Execute(ledger.NewView(s.store), s.request(), []ledger.Op{op})
	if err != nil {
		s.say("not replicated: %s", findings(err))
		return
	}
	for _, c := range tx.Conditions {
		s.say("executed once: write %s if its version is still %d", c.Key, c.Version)
	}
	s.last, err = tx.Entry()
	must(t, err)
	s.apply1(s.last)
}

// renew prolongs leases by as many seconds, on the word of two nodes, A+B.
func (s *stage) renew(t *testing.T, nodes, seconds string, hosts []string) {
	var items []ledger.RenewalItem
	for _, h := range hosts {
		v, err := ledger.NewView(s.store).Judged(admit.LeaseKey(h))
		must(t, err)
		items = append(items, s.item(h, v.Version, number(t, seconds)*1000))
	}
	s.last = s.renewals(strings.Split(nodes, "+"), items...)
	s.apply1(s.last)
}

// lease says what the ledger holds of a lease.
func (s *stage) lease(t *testing.T, host string) {
	v := ledger.NewView(s.store)
	x, err := v.Judged(admit.LeaseKey(host))
	must(t, err)
	until, _ := admit.RecordTimes(x.Data)
	words := ""
	if r, err := v.Renewal(host); err == nil && r.Lease == x.Version {
		until = r.Until
		words = fmt.Sprintf(", renewed at genesis + %d ms", r.Issued-epoch)
	}
	if x, err := v.Suspension(host); err == nil && x.Lease != 0 {
		words += fmt.Sprintf("; version %d suspended by %s: %s", x.Lease, x.Node, x.Reason)
	}
	s.say("version %d until genesis + %d ms%s", x.Version, until-epoch, words)
}

func (s *stage) endorseAll(nodes []string) {
	for _, n := range nodes {
		limit := s.limits[n]
		if limit == 0 {
			limit = 3600
		}
		v := judge(s.proposal, limit)
		e := s.endorse(n, v)
		s.verdicts[e.Verdict] = v
		s.collected = append(s.collected, e)
		s.say("%s: %s, verdict %s", n, v.Content, short(e.Verdict))
		s.apply1(e.Entry())
	}
}

// applyCollected makes the entry from the first endorsement's verdict.
func (s *stage) applyCollected(t *testing.T) {
	v := s.verdicts[s.collected[0].Verdict]
	e := ledger.NewEffective(v, s.collected)
	s.say("verdict %s with %d matching endorsements", short(keystead.Sum(v.Bytes())), len(e.Endorsements))
	entry, err := e.Entry()
	must(t, err)
	s.last = entry
	s.apply1(entry)
}

func (s *stage) prove(t *testing.T, leaf uint64) {
	prover, err := ledger.NewProver(s.store)
	must(t, err)
	r, err := prover.Receipt(leaf)
	must(t, err)
	text := r.Bytes()
	p, err := s.verifier.Verify(text)
	if err != nil {
		s.say("refused: %s", findings(err))
		return
	}
	s.say("receipt of %d bytes: entry of %d, %d hashes, a chain of %d roster entries", len(text), len(r.Entry), len(r.Path), len(r.Chain))
	s.say("verified from the genesis digest: %v %s is leaf %d of %d under roster %d, trust-disks %v, evidence of nodes %v", p.Kind, short(p.ID), p.Index, p.Head.Size, p.Head.Roster, p.Genesis.TrustsDisks(), p.Genesis.AsksEvidence())
}

// tick0 lets all nodes tick once a second until ms have passed.
func (s *stage) tick0(t *testing.T, seconds uint64) {
	r, _ := s.machine.Roster()
	var names []string
	for _, n := range r.Nodes {
		names = append(names, n.Name)
	}
	for range seconds {
		must(t, s.apply(s.tick(1000, names...))[0].Err)
	}
}
