package demo

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/freeport"
	"github.com/keystead/keystead/internal/practice"
	"github.com/keystead/keystead/internal/shell"
)

// The machines of a practice domain: three nodes and two hosts.
var nodes = []string{"n1", "n2", "n3"}

const (
	good  = "web"   // is admitted, and goes bad in the end
	bad   = "batch" // runs an altered file from the start
	theme = "files" // name of the key
)

// releasePolicy is whom the key is for.
const releasePolicy = `keystead-policy/1
name files
minimum-assurance test
rule host
  require release.host == "web"
  otherwise the key is for the host web
rule fresh
  require release.age_seconds <= 10
  otherwise show evidence again: at most 10 s old
`

// interval is how often the demo's hosts show evidence, in milliseconds.
const interval = 500

// domain plays the second act: machines that earn their keys from a domain.
type domain struct {
	*demo
	sh       *shell.Shell
	machines map[string]*practice.Machine
	digest   string
	sealed   []byte // what the application encrypted
	first    string // the key's first version, in hex
	leaves   []uint64
}

// newDomain sets up the machines and founds the domain; nothing runs yet.
func (d *demo) newDomain(ctx context.Context, program string) (_ *domain, err error) {
	x := &domain{demo: d, sh: shell.New(program, d.dir, "KEYSTEAD_DOMAIN="+filepath.Join(d.dir, file("domain.json")))}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.close())
		}
	}()
	if err := d.stage.Publish(d.dir); err != nil {
		return nil, err
	}
	if x.machines, err = d.stage.Machines(ctx, d.dir, append(slices.Clone(nodes), good, bad)...); err != nil {
		return nil, err
	}
	if _, err = x.machines[bad].Advance(ctx); err != nil {
		return nil, err
	}
	port, err := freeport.Block()
	if err != nil {
		return nil, err
	}
	out, err := x.sh.Do(ctx, "domain", "init", "demo", "--local", "3", "--machines", d.dir, "--trust-disks", "--dir", "domain", "--port", fmt.Sprint(port))
	if err != nil {
		return nil, err
	}
	if m := regexp.MustCompile(`(?m)^domain: (sha256:[0-9a-f]{64})$`).FindStringSubmatch(out); m != nil {
		x.digest = m[1]
	}
	return x, nil
}

func (x *domain) close() error {
	errs := []error{x.sh.Close()}
	for _, m := range x.machines {
		errs = append(errs, m.Stop())
	}
	return errors.Join(errs...)
}

// file is a file of the domain's directory, as commands name it.
func file(name string) string { return filepath.Join("domain", name) }

// member adds the member's key to a command.
func member(args ...string) []string { return append(args, "--member", file("member.key")) }

// tell fetches an answer in the API's JSON.
func (x *domain) tell(ctx context.Context, into proto.Message, args ...string) error {
	out, err := x.sh.Do(ctx, append([]string{"--json"}, args...)...)
	if err != nil {
		return err
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal([]byte(out), into)
}

// runNodes starts the nodes and waits until they keep a ledger.
func (x *domain) runNodes(ctx context.Context) error {
	for _, n := range nodes {
		if err := x.sh.Start(n, "node", "run", "--config", file(n+"/keystead.toml")); err != nil {
			return err
		}
	}
	_, err := x.put(ctx, "kv/founded", "by three machines")
	return err
}

// put writes to the ledger, remembers the leaf, and returns it.
func (x *domain) put(ctx context.Context, key, value string) (uint64, error) {
	var out struct {
		Leaf uint64 `json:"leaf"`
	}
	if err := x.sh.Ask(ctx, &out, "ledger", "put", key, value, "--timeout", "30s"); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, x.sh.Log(nodes[0]))
	}
	x.leaves = append(x.leaves, out.Leaf)
	return out.Leaf, nil
}

// join sets up a host's agent, has the member enrol the host, and starts the agent.
func (x *domain) join(ctx context.Context, host string) error {
	m := x.machines[host]
	_, err := x.sh.Do(ctx, "agent", "init", "agent-"+host, "--host", host, "--tpm", m.Socket(), "--root", filepath.Join(m.Dir, practice.Root),
		"--socket", filepath.Join(x.dir, host+".sock"), "--svid", filepath.Join(x.dir, "svid-"+host))
	if err != nil {
		return err
	}
	config := filepath.Join(x.dir, "agent-"+host, "agent.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	often := strings.Replace(string(text), "interval-ms = 0\n", fmt.Sprintf("interval-ms = %d\n", interval), 1)
	if err := os.WriteFile(config, []byte(often), 0o600); err != nil {
		return err
	}
	if _, err := x.sh.Do(ctx, member("host", "enrol", host, "--tpm", m.Socket())...); err != nil {
		return err
	}
	return x.sh.Start(host, "agent", "run", "--config", config)
}

// status asks a host's agent, once it is in the phase.
func (x *domain) status(ctx context.Context, host, phase string) (*apiv1.AgentStatusResponse, error) {
	out := &apiv1.AgentStatusResponse{}
	err := x.tell(ctx, out, "agent", "status", "--socket", filepath.Join(x.dir, host+".sock"), "--wait", phase, "--timeout", "30s")
	if err != nil {
		err = fmt.Errorf("agent of %s: %w\n%s", host, err, x.sh.Log(host))
	}
	return out, err
}

// release runs an application on the host, which asks the host's agent for the key.
func (x *domain) release(ctx context.Context, host string) (secret string, err error) {
	out, err := x.sh.Do(ctx, "key", "release", theme, "--socket", filepath.Join(x.dir, host+".sock"))
	return strings.TrimSpace(out), err
}

// cipherOf makes an AEAD of a key in hex.
func cipherOf(secret string) (cipher.AEAD, error) {
	k, err := hex.DecodeString(secret)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (x *domain) found(ctx context.Context) error {
	x.say("\n7. Three machines found a domain: each node shows the others what it runs, by its own TPM")
	began := time.Now()
	if err := x.runNodes(ctx); err != nil {
		return err
	}
	var list apiv1.ListKeysResponse
	err := shell.Until(ctx, "an epoch", func(ctx context.Context) (bool, error) {
		err := x.tell(ctx, &list, "key", "list")
		return list.GetEpoch() > 0, err
	})
	if err != nil {
		return err
	}
	x.say("   Domain     %s, the digest of its genesis entry", x.digest)
	x.say("   Nodes      %s: every connection among them carries evidence; a ledger after %.1f s", strings.Join(list.GetEpochNodes(), ", "), time.Since(began).Seconds())
	x.say("   Epoch %d    a secret that all three contributed to, kept sealed to each node's TPM", list.GetEpoch())
	return nil
}

func (x *domain) admit(ctx context.Context) error {
	x.say("\n8. A host is enrolled by a member, and earns its lease")
	began := time.Now()
	if err := x.join(ctx, good); err != nil {
		return err
	}
	s, err := x.status(ctx, good, "admitted")
	if err != nil {
		return err
	}
	if s.GetAssurance() != "test" {
		return fmt.Errorf("the host's assurance is %q, want test", s.GetAssurance())
	}
	x.leaves = append(x.leaves, s.GetLeaseVersion()-1)
	x.say("   ADMITTED   %s, lease %d, assurance %s, %.1f s after it asked: each node activated a credential with", s.GetHost(), s.GetLeaseVersion(), s.GetAssurance(), time.Since(began).Seconds())
	x.say("              its TPM and judged its evidence by itself, and a majority endorsed one verdict")
	x.say("   SVID       %s, as long as the lease", s.GetSpiffeId())
	return nil
}

func (x *domain) agree(ctx context.Context) error {
	x.say("\n9. The nodes agree on a key, and an application on the host uses it")
	if err := os.WriteFile(filepath.Join(x.dir, "release.txt"), []byte(releasePolicy), 0o600); err != nil {
		return err
	}
	var k apiv1.Key
	if err := x.tell(ctx, &k, member("key", "create", theme, "--policy", "release.txt", "--level", "peer")...); err != nil {
		return err
	}
	x.noteVersions(&k)
	var err error
	if x.first, err = x.release(ctx, good); err != nil {
		return fmt.Errorf("%w\n%s", err, x.sh.Log(good))
	}
	aead, err := cipherOf(x.first)
	if err != nil {
		return err
	}
	x.sealed = aead.Seal(nil, nil, []byte("the quarter's figures"), nil)
	x.say("   AGREED     %s version %d in epoch %d: each node committed to 32 bytes before any revealed; nobody chose it", k.GetName(), k.GetVersion(), k.GetVersions()[0].GetEpoch())
	x.say("   ENCRYPTED  by an application, which the agent knows by the kernel's word (level peer): %x…", x.sealed[:12])
	return x.decrypt(ctx)
}

// noteVersions remembers the leaves of a key's versions.
func (x *domain) noteVersions(k *apiv1.Key) {
	for _, v := range k.GetVersions() {
		if !slices.Contains(x.leaves, v.GetLeaf()) {
			x.leaves = append(x.leaves, v.GetLeaf())
		}
	}
}

// decrypt has another process get the key and open what the first one encrypted.
func (x *domain) decrypt(ctx context.Context) error {
	out, err := x.sh.Do(ctx, "key", "release", theme, "--version", "1", "--socket", filepath.Join(x.dir, good+".sock"))
	if err != nil {
		return fmt.Errorf("%w\n%s", err, x.sh.Log(good))
	}
	aead, err := cipherOf(strings.TrimSpace(out))
	if err != nil {
		return err
	}
	text, err := aead.Open(nil, nil, x.sealed, nil)
	if err != nil {
		return err
	}
	x.say("   DECRYPTED  by another: %q", text)
	return nil
}

func (x *domain) denyAltered(ctx context.Context) error {
	x.say("\n10. A second host, enrolled as well, runs an altered program")
	if err := x.join(ctx, bad); err != nil {
		return err
	}
	s, err := x.status(ctx, bad, "refused")
	if err != nil {
		return err
	}
	f, err := finding(s.GetProblem(), "file-altered")
	if err != nil {
		return err
	}
	x.say("   DENIED     %s: %s: %s", s.GetHost(), f.GetReason(), f.GetWhere())
	x.say("              found  %s", f.GetGot())
	x.say("              wanted %s", f.GetWant())
	if _, err := x.release(ctx, bad); err == nil {
		return fmt.Errorf("%s was given the key", bad)
	}
	return x.sh.End(bad, syscall.SIGTERM)
}

// finding returns the finding for a reason, which must be there.
func finding(r *apiv1.Refusal, reason string) (*apiv1.Finding, error) {
	i := slices.IndexFunc(r.GetFindings(), func(f *apiv1.Finding) bool { return f.GetReason() == reason })
	if i < 0 {
		return nil, fmt.Errorf("want a refusal for %s, got %v", reason, r)
	}
	return r.GetFindings()[i], nil
}

// leader returns the node that leads.
func (x *domain) leader(ctx context.Context) (lead string, err error) {
	err = shell.Until(ctx, "a leader", func(ctx context.Context) (bool, error) {
		var s apiv1.StatusResponse
		err := x.tell(ctx, &s, "node", "status", "--timeout", "2s")
		lead = s.GetLeader()
		return lead != "", err
	})
	return lead, err
}

func (x *domain) killLeader(ctx context.Context) error {
	x.say("\n11. The leader is killed (SIGKILL), and a key is released again")
	lead, err := x.leader(ctx)
	if err != nil {
		return err
	}
	if err := x.sh.End(lead, syscall.SIGKILL); err != nil {
		return err
	}
	began := time.Now()
	err = shell.Until(ctx, "a release without "+lead, func(ctx context.Context) (bool, error) {
		_, err := x.release(ctx, good)
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, x.sh.Log(good))
	}
	x.say("   KILLED     %s; a key released again %.1f s later, by the other two", lead, time.Since(began).Seconds())
	if err := x.sh.Start(lead, "node", "run", "--config", file(lead+"/keystead.toml")); err != nil {
		return err
	}
	if _, err := x.put(ctx, "kv/after", "the leader's end"); err != nil {
		return err
	}
	return shell.Until(ctx, lead+" back", func(ctx context.Context) (bool, error) {
		var s apiv1.StatusResponse
		err := x.tell(ctx, &s, "node", "status", "--node", lead, "--timeout", "2s")
		return s.GetFresh() && s.GetLeader() != "" && s.GetRole() != "learner", err
	})
}

func (x *domain) evict(ctx context.Context) error {
	x.say("\n12. A node is evicted: its signature counts no more, and what it could read is rotated")
	const gone = "n3"
	if _, err := x.sh.Do(ctx, "node", "remove", gone, "--key", file("member.key"), "--timeout", "30s"); err != nil {
		return err
	}
	var k apiv1.Key
	err := shell.Until(ctx, "a rotated key", func(ctx context.Context) (bool, error) {
		err := x.tell(ctx, &k, "key", "show", theme)
		return k.GetVersion() > 1, err
	})
	if err != nil {
		return err
	}
	x.noteVersions(&k)
	newest := k.GetVersions()[len(k.GetVersions())-1]
	for _, v := range k.GetVersions() {
		if v.GetVersion() > newest.GetVersion() {
			newest = v
		}
	}
	if err := x.sh.Stopped(gone); err != nil {
		return err
	}
	if words := x.sh.Log(gone); !strings.Contains(words, string(keystead.ReasonNotMember)) {
		return fmt.Errorf("%s stopped for another reason: %s", gone, words)
	}
	second, err := x.release(ctx, good)
	if err != nil {
		return err
	}
	if second == x.first {
		return errors.New("the key was not rotated")
	}
	x.say("   EVICTED    %s stopped (%s): checkpoints and endorsements count the others' signatures only;", gone, keystead.ReasonNotMember)
	x.say("              epoch %d without it; %s is version %d now, and another key", newest.GetEpoch(), theme, newest.GetVersion())
	return x.decrypt(ctx)
}

// goBad lets the admitted host run an altered file, and measures how long it takes
// until every node refuses it.
func (x *domain) goBad(ctx context.Context) error {
	x.say("\n13. The admitted host goes bad: it runs an altered program")
	s, err := x.status(ctx, good, "admitted")
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := x.machines[good].Advance(ctx); err != nil {
		return err
	}
	took, err := x.refusedEverywhere(ctx, began)
	if err != nil {
		return err
	}
	if s2, err := x.status(ctx, good, "refused"); err != nil {
		return err
	} else if f, err := finding(s2.GetProblem(), "file-altered"); err != nil {
		return err
	} else {
		x.say("   SUSPENDED  %s: %s: %s", good, f.GetReason(), f.GetWhere())
	}
	if _, err := x.release(ctx, good); err == nil {
		return fmt.Errorf("%s still gets the key", good)
	}
	if _, err := os.Stat(filepath.Join(x.dir, "svid-"+good, "svid.key")); err == nil {
		return fmt.Errorf("%s still has its SVID's key", good)
	}
	x.say("   EXPOSURE   refused by every node %d ms after it ran; evidence is due every %d ms, and the bound, interval and", took.Milliseconds(), interval)
	x.say("              rest of the lease together, was %.1f s had it fallen silent. Lease, key and SVID are gone.", float64(s.GetExposureMs())/1000)
	return nil
}

// refusedEverywhere asks every node that is left until each holds the lease for
// suspended, and returns how long after began the last one did.
func (x *domain) refusedEverywhere(ctx context.Context, began time.Time) (time.Duration, error) {
	raw, err := os.ReadFile(filepath.Join(x.dir, file("domain.json")))
	if err != nil {
		return 0, err
	}
	parsed, err := client.ParseDomain(raw)
	if err != nil {
		return 0, err
	}
	digest, err := keystead.ParseDigest(x.digest)
	if err != nil {
		return 0, err
	}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, n := range nodes[:2] {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = awaitSuspension(ctx, parsed, digest, n)
		}()
	}
	wg.Wait()
	return time.Since(began), errors.Join(errs...)
}

// awaitSuspension asks one node until it holds the host's lease for suspended.
func awaitSuspension(ctx context.Context, file *client.Domain, digest keystead.Digest, node string) error {
	cl, err := client.Open(file, digest, client.Options{Only: node})
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, shell.Patience)
	defer cancel()
	for suspended := false; !suspended; {
		err := cl.Hosts(ctx, good, func(h *apiv1.Host) bool {
			suspended = h.GetName() == good && h.GetLease().GetSuspended() != nil
			return !suspended
		})
		if err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
	}
	return nil
}

// lineOf returns what follows a label in a text of lines.
func lineOf(text, label string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, label); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// prove fetches the receipts of all that took effect, and verifies them without a network.
func (x *domain) prove(ctx context.Context) error {
	x.say("\n14. Receipts, verified offline from the domain's digest alone")
	slices.Sort(x.leaves)
	for _, leaf := range slices.Compact(x.leaves) {
		text, err := x.sh.Do(ctx, "receipt", "get", fmt.Sprint(leaf), "--timeout", "30s")
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%d.receipt", leaf)
		if err := os.WriteFile(filepath.Join(x.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
		out, err := x.sh.Do(ctx, "receipt", "verify", name, "--digest", x.digest)
		if err != nil {
			return err
		}
		x.say("   PROVEN     leaf %d: %s", leaf, lineOf(out, "kind:"))
		x.say("              %s", lineOf(out, "tree:"))
	}
	var foreign *shell.Refusal
	_, err := x.sh.Do(ctx, "receipt", "verify", fmt.Sprintf("%d.receipt", x.leaves[0]), "--digest", keystead.Sum(nil).String())
	if !errors.As(err, &foreign) || !strings.Contains(foreign.Words, string(keystead.ReasonDomainMismatch)) {
		return fmt.Errorf("a receipt under another domain's digest: want %s, got %v", keystead.ReasonDomainMismatch, err)
	}
	x.say("   DENIED     %s: the same receipt under another domain's digest", keystead.ReasonDomainMismatch)
	return nil
}
