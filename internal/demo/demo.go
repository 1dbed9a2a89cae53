// Package demo shows the main job on one machine, narrated: a host proves what it
// runs, and a verifier judges it. Host and verifier share nothing but the bytes
// that they would send each other. Every step states what it expects and fails if it
// comes out otherwise.
package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/internal/recording"
)

// An Outcome is one verdict of the demo: allowed, or refused for reasons.
type Outcome struct {
	Step    string            `json:"step"`
	Allowed bool              `json:"allowed"`
	Reasons []keystead.Reason `json:"reasons"`
	Verdict keystead.Digest   `json:"verdict"`
}

// Run plays the demo with a recorded boot and writes the narration to w. Program is
// this program, which nodes and hosts of the second act run. It leaves neither processes
// nor files behind.
func Run(ctx context.Context, w io.Writer, rec *recording.Recording, program string) (outcomes []Outcome, err error) {
	start := time.Now()
	dir, err := os.MkdirTemp("", "keystead-demo-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := practice.New(rec)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	d := &demo{w: w, rec: rec, stage: s, dir: dir}
	defer func() { err = errors.Join(err, d.stop()) }()
	for _, step := range []func(context.Context) error{d.boot, d.trust, d.admit, d.altered, d.unknown, d.attack} {
		if err := step(ctx); err != nil {
			return d.outcomes, err
		}
	}
	if err := d.play(ctx, program); err != nil {
		return d.outcomes, err
	}
	d.say("\nEvery step came out as expected, in %.1f s.", time.Since(start).Seconds())
	return d.outcomes, nil
}

// play is the second act: a domain.
func (d *demo) play(ctx context.Context, program string) (err error) {
	x, err := d.newDomain(ctx, program)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.close()) }()
	for _, step := range []func(context.Context) error{x.found, x.admit, x.agree, x.denyAltered, x.killLeader, x.evict, x.goBad, x.prove} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// demo is the stage: one host, one verifier, and a second TPM for an attacker.
type demo struct {
	w        io.Writer
	rec      *recording.Recording
	stage    *practice.Stage
	dir      string // of the machines
	host     *practice.Machine
	other    *practice.Machine
	verifier *verifier
	outcomes []Outcome
	first    evidence.Bundle // the bundle that passed
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.w, format+"\n", args...) }

func (d *demo) stop() error {
	var errs []error
	for _, m := range []*practice.Machine{d.host, d.other} {
		if m != nil {
			errs = append(errs, m.Stop())
		}
	}
	return errors.Join(errs...)
}

func (d *demo) boot(ctx context.Context) (err error) {
	r := d.rec
	d.say("1. A host boots, measured by its own TPM")
	d.say("   Replayed, not booted here: a real boot recorded on %s", r.Recorded.Format(time.DateOnly))
	d.say("   (%s,", r.Kernel)
	d.say("   %d Debian packages, UEFI firmware and TPM emulated). The TPM (swtpm), its key and every quote below are live.", r.Packages)
	if d.host, err = d.stage.Machine(ctx, filepath.Join(d.dir, "host")); err != nil {
		return err
	}
	d.say("   Extended: %d bytes of firmware event log, %d IMA entries of phase %q.", len(r.EventLog), r.Phases[0].Entries, r.Phases[0].Name)
	return nil
}

func (d *demo) trust(ctx context.Context) (err error) {
	d.say("\n2. A verifier that knows vendor keys, a policy and reference values")
	if d.verifier, err = newVerifier(d.stage.Root(), d.rec); err != nil {
		return err
	}
	for _, line := range d.verifier.knows {
		d.say("   %s", line)
	}
	if err := d.verifier.activate(ctx, d.host.Device()); err != nil {
		return err
	}
	d.say("   Credential activation: the attestation key (%s) lives in the TPM that", d.verifier.algorithm)
	d.say("   certificate %q names. Its root is one for software TPMs: assurance can not exceed \"test\".", d.verifier.issuer)
	return nil
}

// admit is the case in which nothing is wrong.
func (d *demo) admit(ctx context.Context) error {
	nonce := d.verifier.ask()
	b, err := d.bundle(ctx, d.host, nonce, nil)
	if err != nil {
		return err
	}
	began := time.Now()
	var named int
	v := d.verifier.judge(b, nonce, func(f appraise.File) {
		if f.Status == appraise.Named {
			named++
		}
	})
	took := time.Since(began)
	d.say("\n3. Phase %q is quoted over a fresh nonce (%d bytes of bundle) and judged", d.rec.Phases[0].Name, len(b.Bytes()))
	if err := v.Err(); err != nil {
		return fmt.Errorf("phase %s must be allowed: %w", d.rec.Phases[0].Name, err)
	}
	c := v.Claims()
	if int64(named)+1 != c.Software.Entries {
		return fmt.Errorf("%d of %d entries are named, want all but boot_aggregate", named, c.Software.Entries)
	}
	d.say("   ALLOWED in %v, assurance %s", took.Round(10*time.Microsecond), v.Assurance())
	d.say("   root of trust  quote by %s over banks %s, nonce fresh", c.Key.Algorithm, strings.Join(c.Quote.Banks, " and "))
	d.say("   boot           %d events lead to the quoted registers; firmware, loader, kernel, initrd as accepted", c.Boot.Events)
	d.say("   kernel         lockdown=%s; initrd guarantees %s", c.Kernel.Lockdown, strings.Join(c.Kernel.Guarantees, ", "))
	d.say("   software       %d of %d entries named, the other is boot_aggregate; %d packages ran, such as %s",
		named, c.Software.Entries, len(c.Software.Packages), strings.Join(c.Software.Packages[:min(3, len(c.Software.Packages))], ", "))
	d.say("   verdict        %s", v.Digest())
	d.first = b
	d.outcomes = append(d.outcomes, Outcome{d.rec.Phases[0].Name, true, []keystead.Reason{}, v.Digest()})
	return nil
}

func (d *demo) altered(ctx context.Context) error {
	return d.next(ctx, 4, keystead.ReasonFileAltered)
}

func (d *demo) unknown(ctx context.Context) error {
	return d.next(ctx, 5, keystead.ReasonFileAltered, keystead.ReasonFileUnknown)
}

// next moves the host to its next phase, which must be denied for these reasons.
func (d *demo) next(ctx context.Context, step int, want ...keystead.Reason) error {
	phase, err := d.host.Advance(ctx)
	if err != nil {
		return err
	}
	d.say("\n%d. Phase %q: %s", step, phase.Name, phase.About)
	nonce := d.verifier.ask()
	b, err := d.bundle(ctx, d.host, nonce, nil)
	if err != nil {
		return err
	}
	return d.denied(phase.Name, d.verifier.judge(b, nonce, nil), want...)
}

func (d *demo) attack(ctx context.Context) error {
	d.say("\n6. Attacks")
	d.say("   The allowed bundle is sent again, in answer to a new nonce:")
	if err := d.denied("replay", d.verifier.judge(d.first, d.verifier.ask(), nil), keystead.ReasonBundleReplayed); err != nil {
		return err
	}
	d.say("   The last entries of the IMA log are cut off, to hide what ran:")
	nonce := d.verifier.ask()
	b, err := d.bundle(ctx, d.host, nonce, func(p *evidence.Parts) { p.IMALog = d.rec.Phases[0].IMALog })
	if err != nil {
		return err
	}
	if err := d.denied("cut log", d.verifier.judge(b, nonce, nil), keystead.ReasonLogTruncated); err != nil {
		return err
	}
	d.say("   Another machine's genuine TPM signs the good machine's logs:")
	if d.other, err = d.stage.Machine(ctx, filepath.Join(d.dir, "other")); err != nil {
		return err
	}
	nonce = d.verifier.ask()
	if b, err = d.bundle(ctx, d.other, nonce, nil); err != nil {
		return err
	}
	return d.denied("foreign key", d.verifier.judge(b, nonce, nil), keystead.ReasonKeyForeign)
}

// denied demands a refusal for exactly these reasons, and prints it.
func (d *demo) denied(step string, v appraise.Verdict, want ...keystead.Reason) error {
	var got []keystead.Reason
	for _, f := range v.Findings() {
		got = append(got, f.Reason)
	}
	slices.Sort(got)
	slices.Sort(want)
	if got = slices.Compact(got); v.Allowed() || !slices.Equal(got, want) {
		return fmt.Errorf("want a refusal for %v, got %v: %w", want, got, v.Err())
	}
	d.outcomes = append(d.outcomes, Outcome{step, false, got, v.Digest()})
	for _, f := range v.Findings() {
		d.say("   DENIED  %s: %s", f.Reason, f.Where)
		d.say("           found  %s", f.Got)
		d.say("           wanted %s", f.Want)
	}
	return nil
}

// bundle quotes over the nonce, then takes the logs as they stand. Whoever controls
// the host may change what is sent.
func (d *demo) bundle(ctx context.Context, m *practice.Machine, nonce []byte, change func(*evidence.Parts)) (evidence.Bundle, error) {
	p := evidence.Parts{
		Binding:  evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: nonce},
		Origin:   evidence.Origin{Hostname: "demo-host", Collected: time.Now().Unix(), Note: "logs replayed from a boot recorded on " + d.rec.Recorded.Format(time.DateOnly)},
		EventLog: d.rec.EventLog,
		IMALog:   m.Phase().IMALog,
		Packages: &evidence.PackageList{Format: evidence.FormatDpkgStatus, Data: d.rec.Status},
	}
	var err error
	if p.TPM, err = m.Device().Quote(ctx, collect.QuoteRequest{QualifyingData: p.Binding.QualifyingData()}); err != nil {
		return evidence.Bundle{}, err
	}
	if change != nil {
		change(&p)
	}
	return evidence.New(p)
}

// fresh returns 32 random bytes.
func fresh() []byte {
	nonce := make([]byte, 32)
	rand.Read(nonce)
	return nonce
}
