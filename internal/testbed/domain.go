package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/freeport"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/shell"
	"github.com/keystead/keystead/internal/swtpm"
)

// The files of a domain's directory, as its commands name them.
const (
	DomainFile = "domain.json"
	MemberKey  = "ops.key"
	EKRoot     = practice.EKRoot // authority of all TPMs, nodes' and guests'
	guestRefs  = "guest.refs"
	guestCode  = "guest.codeset"
)

// wait is how long commands of the domain try.
const wait = "--timeout=2m"

// Domain is three nodes that run on this machine, each with the TPM of a practice
// machine, founded as on three machines, and a member. Its terms accept guests of one bed.
type Domain struct {
	Digest keystead.Digest
	Dir    string

	stage    *practice.Stage
	machines map[string]*practice.Machine
	sh       *shell.Shell
	client   *client.Client
	address  bool // the loopback device has guestsSee because of this domain
}

var domainNodes = []string{"n1", "n2", "n3"}

// Found founds a domain and starts its nodes, which are commands of the program. Its
// terms are the policy demo, the reference set of the bed's guests, and a code set of
// how they boot and of programs, files of this machine by the guest's paths. The
// API listens where guests reach it.
func (b *Bed) Found(ctx context.Context, program string, programs map[string]string) (_ *Domain, err error) {
	d := &Domain{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("testbed: domain: %w", errors.Join(err, d.Close()))
		}
	}()
	if d.Dir, err = os.MkdirTemp("", "keystead-testbed-domain-"); err != nil {
		return nil, err
	}
	rec, err := recording.Load(recording.Committed())
	if err != nil {
		return nil, err
	}
	if d.stage, err = practice.New(rec); err != nil {
		return nil, err
	}
	if d.machines, err = d.stage.Machines(ctx, d.Dir, domainNodes...); err != nil {
		return nil, err
	}
	if err := d.stage.Publish(d.Dir); err != nil {
		return nil, err
	}
	code, err := b.CodeSet(programs)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(d.at(guestCode), []byte(code.Text()), 0o644); err != nil {
		return nil, err
	}
	if err := os.Symlink(b.References, d.at(guestRefs)); err != nil {
		return nil, err
	}
	d.sh = shell.New(program, d.Dir, "KEYSTEAD_DOMAIN="+d.at(DomainFile))
	if err := d.init(ctx); err != nil {
		return nil, err
	}
	return d, d.run(ctx)
}

func (d *Domain) at(name string) string { return filepath.Join(d.Dir, name) }

// init makes the nodes' directories and the signed domain file.
func (d *Domain) init(ctx context.Context) error {
	if err := d.reachable(ctx); err != nil {
		return err
	}
	port, err := freeport.Block()
	if err != nil {
		return err
	}
	if _, err := d.Do(ctx, "member", "create", "ops", "--out", MemberKey); err != nil {
		return err
	}
	found := []string{"domain", "init", "bed", "--member", MemberKey + ".pub", "--out", DomainFile}
	for i, n := range domainNodes {
		if _, err := d.Do(ctx, "node", "init", "node-"+n, "--open-writes", "--name", n, "--tpm", d.machines[n].Socket(), "--root", filepath.Join(d.machines[n].Dir, practice.Root),
			"--peer", fmt.Sprintf("127.0.0.1:%d", port+i), "--api", fmt.Sprintf("%s:%d", guestsSee, port+100+i), "--ops", fmt.Sprintf("127.0.0.1:%d", port+200+i)); err != nil {
			return err
		}
		found = append(found, "--node", filepath.Join("node-"+n, "contact"))
	}
	found = append(found, "--policy", "demo", "--test-roots", EKRoot, "--refs", practice.Reference, "--refs", guestRefs, "--codeset", practice.CodeSet, "--codeset", guestCode)
	if _, err := d.Do(ctx, found...); err != nil {
		return err
	}
	if _, err := d.Do(ctx, "member", "sign", "--key", MemberKey, DomainFile); err != nil {
		return err
	}
	for _, n := range domainNodes {
		out, err := d.Do(ctx, "domain", "join", "node-"+n, "--timeout", "100ms")
		if err != nil {
			return err
		}
		if d.Digest, err = keystead.ParseDigest(regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(out)); err != nil {
			return fmt.Errorf("domain join said %q: %w", out, err)
		}
	}
	return nil
}

// run starts the nodes, and returns when they keep a ledger.
func (d *Domain) run(ctx context.Context) error {
	for _, n := range domainNodes {
		if err := d.sh.Start(n, "node", "run", "--config", filepath.Join("node-"+n, "keystead.toml")); err != nil {
			return err
		}
	}
	if _, err := d.Do(ctx, "ledger", "put", "kv/founded", "1", wait); err != nil {
		return fmt.Errorf("%w\n%s", err, d.sh.Log(domainNodes[0]))
	}
	raw, err := os.ReadFile(d.at(DomainFile))
	if err != nil {
		return err
	}
	file, err := client.ParseDomain(raw)
	if err != nil {
		return err
	}
	d.client, err = client.Open(file, d.Digest, client.Options{})
	return err
}

// guestsSee is where guests reach this machine: 127.0.0.1 is their own to them, so the
// loopback device gets an address more, of those that are nobody's (RFC 5737).
const guestsSee = "192.0.2.1"

// reachable gives the loopback device that address, unless it has it; then it is
// somebody else's, another domain's or the machine's owner's, and stays.
func (d *Domain) reachable(ctx context.Context) error {
	has, err := output(ctx, "ip", "-oneline", "address", "show", "dev", "lo", "to", guestsSee)
	if err != nil || strings.TrimSpace(has) != "" {
		return err
	}
	out, err := exec.CommandContext(ctx, "ip", "address", "add", guestsSee+"/32", "dev", "lo").CombinedOutput()
	d.address = err == nil
	if err != nil {
		return fmt.Errorf("the loopback device gets no address %s, as which guests would see this machine: %w: %s", guestsSee, err, bytes.TrimSpace(out))
	}
	return nil
}

// Do runs a command of the program in the domain's directory and returns its answer; a
// refusal is a *shell.Refusal.
func (d *Domain) Do(ctx context.Context, args ...string) (string, error) {
	out, err := d.sh.Do(ctx, args...)
	if err != nil {
		err = fmt.Errorf("keystead %s: %w", strings.Join(args, " "), err)
	}
	return out, err
}

// Member runs a command of the member's.
func (d *Domain) Member(ctx context.Context, args ...string) (string, error) {
	return d.Do(ctx, append(args, "--member", MemberKey, wait)...)
}

// Authority certifies TPMs that the domain's terms accept.
func (d *Domain) Authority() *swtpm.CA { return d.stage.Authority() }

// Await asks the domain for a host, again and again, until it is as it should be; what
// says that in words. Between two questions there is no event to wait for.
func (d *Domain) Await(ctx context.Context, host, what string, ok func(*apiv1.Host) bool) (*apiv1.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var last *apiv1.Host
	for {
		err := d.client.Hosts(ctx, host, func(h *apiv1.Host) bool {
			if h.GetName() == host {
				last = h
			}
			return h.GetName() != host
		})
		if err == nil && last != nil && ok(last) {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("host %s is not %s: it is %v (%w)", host, what, last, errors.Join(err, context.Cause(ctx)))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Close ends the nodes and removes everything of them. It may be called twice.
func (d *Domain) Close() error {
	var errs []error
	if d.client != nil {
		d.client.Close()
	}
	if d.sh != nil {
		errs = append(errs, d.sh.Close())
	}
	for _, m := range d.machines {
		errs = append(errs, m.Stop())
	}
	if d.stage != nil {
		errs = append(errs, d.stage.Close())
	}
	if d.address {
		d.address = false
		errs = append(errs, exec.Command("ip", "address", "del", guestsSee+"/32", "dev", "lo").Run())
	}
	if d.Dir != "" {
		errs = append(errs, os.RemoveAll(d.Dir))
	}
	return errors.Join(errs...)
}
