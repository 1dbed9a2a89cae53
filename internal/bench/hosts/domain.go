package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/bench/profiled"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/policy"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/refval"
)

// domain is a running domain of three node processes, each with a software TPM that
// the recorded boot was replayed into.
type domain struct {
	dir       string
	rec       *recording.Recording
	stage     *practice.Stage
	machines  map[string]*practice.Machine
	authority *authority // of the synthetic hosts
	input     appraise.Input
	growth    *growth
	again     atomic.Int64 // renewals that nodes wanted whole
	nodes     []*exec.Cmd
	file      *client.Domain
	digest    keystead.Digest
	member    key.Member
}

var names = []string{"n1", "n2", "n3"}

func hostName(n int) string { return fmt.Sprintf("host-%05d", n) }

func startDomain(ctx context.Context, o *order, port int) (d *domain, err error) {
	d = &domain{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	if d.dir, err = os.MkdirTemp(o.dir, "keystead-bench-"); err != nil {
		return d, err
	}
	if d.rec, err = recording.Load(recording.Committed()); err != nil {
		return d, err
	}
	if d.stage, err = practice.New(d.rec); err != nil {
		return d, err
	}
	if err := d.stage.Publish(d.dir); err != nil {
		return d, err
	}
	if d.machines, err = d.stage.Machines(ctx, d.dir, "m1", "m2", "m3"); err != nil {
		return d, err
	}
	if d.authority, err = newAuthority(); err != nil {
		return d, err
	}
	roots := filepath.Join(d.dir, syntheticRoot)
	if err := d.authority.save(d.dir); err != nil {
		return d, err
	}
	args := []string{"domain", "init", "bench", "--local", "3", "--dir", filepath.Join(d.dir, "d"), "--port", fmt.Sprint(port), "--trust-disks", "--policy", "demo",
		"--test-roots", filepath.Join(d.dir, practice.EKRoot), "--test-roots", roots, "--refs", filepath.Join(d.dir, practice.Reference), "--codeset", filepath.Join(d.dir, practice.CodeSet),
		"--machine-root", filepath.Join(d.dir, "m1", practice.Root)}
	for _, m := range []string{"m1", "m2", "m3"} {
		args = append(args, "--tpm", d.machines[m].Socket())
	}
	if out, err := exec.Command(o.program, args...).CombinedOutput(); err != nil {
		return d, fmt.Errorf("%w: %s", err, out)
	}
	return d, d.run(ctx, o)
}

// learn reads what hosts know of a domain from the directory that startDomain made.
func (d *domain) learn() error {
	if err := d.know(); err != nil {
		return err
	}
	return d.judgement()
}

// know is learn as far as strangers do.
func (d *domain) know() error {
	raw, err := os.ReadFile(filepath.Join(d.dir, "d", "domain.json"))
	if err != nil {
		return err
	}
	if d.file, err = client.ParseDomain(raw); err != nil {
		return err
	}
	entry, err := receipt.NoteEntry(d.file.Genesis)
	if err != nil {
		return err
	}
	d.digest = keystead.Sum(entry)
	secret, err := os.ReadFile(filepath.Join(d.dir, "d", "member.key"))
	if err != nil {
		return err
	}
	d.member, err = key.ParseMember(secret)
	return err
}

// joinDomain is a domain whose nodes another process runs.
func joinDomain(dir string) (*domain, error) {
	d := &domain{dir: dir}
	var err error
	if d.rec, err = recording.Load(recording.Committed()); err != nil {
		return nil, err
	}
	if d.authority, err = openAuthority(dir); err != nil {
		return nil, err
	}
	return d, d.learn()
}

// set changes a setting of the domain.
func (d *domain) set(program, name string, value int) error {
	out, err := exec.Command(program, "setting", "set", name, fmt.Sprint(value), "--domain", filepath.Join(d.dir, "d", "domain.json"), "--key", filepath.Join(d.dir, "d", "member.key")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (d *domain) run(ctx context.Context, o *order) error {
	if err := d.learn(); err != nil {
		return err
	}
	for _, name := range names {
		config := filepath.Join(d.dir, "d", name, "keystead.toml")
		text, err := os.ReadFile(config)
		if err != nil {
			return err
		}
		changed := strings.Replace(string(text), "[api]\n", "[api]\nmax-connections = 40000\nmax-connections-per-address = 40000\n", 1)
		if o.floods { // with the limits that everybody has; a cache that fills would be counted as theirs
			changed = strings.Replace(string(text), "[store]\n", "[store]\ncache-mib = 128\n", 1)
		}
		if err := os.WriteFile(config, []byte(changed), 0o600); err != nil {
			return err
		}
		log, err := os.Create(filepath.Join(d.dir, name+".log"))
		if err != nil {
			return err
		}
		cmd := profiled.Command(o.program, config, o.pprof)
		cmd.Stderr = log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return err
		}
		d.nodes = append(d.nodes, cmd)
	}
	return d.ready(ctx)
}

// judgement is by what hosts judge nodes.
func (d *domain) judgement() error {
	set, err := refval.Parse(d.rec.Reference)
	if err != nil {
		return err
	}
	codes, err := refval.ParseCodeSet(d.rec.CodeSet)
	if err != nil {
		return err
	}
	root, err := readCertificate(filepath.Join(d.dir, practice.EKRoot))
	if err != nil {
		return err
	}
	text, _ := policy.Shipped("demo")
	d.growth = newGrowth(d.rec, set)
	d.input = appraise.Input{EKRoots: tpm2.Roots{Test: []*x509.Certificate{root}}, References: []*refval.Set{set}, CodeSets: []*refval.CodeSet{codes}}
	d.input.Policy, err = policy.Compile(text, appraise.Vocabulary())
	return err
}

func (d *domain) client(only string) (*client.Client, error) {
	return client.Open(d.file, d.digest, client.Options{Only: only, Attempt: 20 * time.Second})
}

func (d *domain) contacts() (map[string]client.Contact, error) {
	out := map[string]client.Contact{}
	for _, signed := range d.file.Contacts {
		c, err := client.OpenContact(signed)
		if err != nil {
			return nil, err
		}
		out[c.Name] = c
	}
	return out, nil
}

// ready waits until every node's clock ticks.
func (d *domain) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, name := range names {
		c, err := d.client(name)
		if err != nil {
			return err
		}
		for {
			s, err := c.Status(ctx)
			if err == nil && s.GetFresh() && s.GetCheckpointSize() > 0 && time.Since(time.UnixMilli(int64(s.GetDomainClockMs()))) < 3*time.Second {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%s is not ready: %w", name, errors.Join(err, ctx.Err()))
			}
			time.Sleep(50 * time.Millisecond)
		}
		c.Close()
	}
	return nil
}

// enrol has the nodes judge a host's enrolment.
func (d *domain) enrol(ctx context.Context, c *client.Client, h *synthetic) error {
	text, err := (&admit.Enrolment{Domain: d.digest, Host: h.name, Role: admit.RoleHost, EK: h.ek}).Text()
	if err != nil {
		return err
	}
	note, err := d.member.Sign(text)
	if err != nil {
		return err
	}
	p, err := client.Propose(note)
	if err != nil {
		return err
	}
	entry, err := p.Entry()
	if err != nil {
		return err
	}
	_, err = c.Submit(ctx, entry, nil)
	return err
}

func (d *domain) stop() error {
	for _, n := range d.nodes {
		_ = n.Process.Kill() // it may be gone
	}
	for _, n := range d.nodes {
		_ = n.Wait()
	}
	var errs []error
	for _, m := range d.machines {
		errs = append(errs, m.Stop())
	}
	if d.stage != nil {
		errs = append(errs, d.stage.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

// cpu returns the processor time that all nodes have used.
func (d *domain) cpu() time.Duration { return cpu(d.processes()...) }

// rss returns the resident memory of all nodes, in bytes.
func (d *domain) rss() int64 { return rss(d.processes()...) }

func (d *domain) processes() (out []*os.Process) {
	for _, n := range d.nodes {
		out = append(out, n.Process)
	}
	return out
}

// cpu returns the processor time that processes have used.
func cpu(processes ...*os.Process) (total time.Duration) {
	for _, p := range processes {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // proc(5): utime and stime are fields 14 and 15
		var user, system int64
		fmt.Sscan(f[11], &user)
		fmt.Sscan(f[12], &system)
		total += time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
	}
	return total
}

// rss returns the resident memory of processes, in bytes.
func rss(processes ...*os.Process) (total int64) {
	for _, p := range processes {
		var size, resident int64
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.Pid))
		if err == nil {
			fmt.Sscan(string(b), &size, &resident)
		}
		total += resident * int64(os.Getpagesize())
	}
	return total
}
