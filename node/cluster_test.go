package node_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/internal/freeport"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/node"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// patience is how long a test waits for what must come: long enough for a machine
// that is busy with other things.
const patience = time.Minute

// nodeEnv makes the test program run a node instead: the value is its configuration.
const nodeEnv = "KEYSTEAD_TEST_NODE"

// leasedEnv has the node take every host for one that has a lease, in a domain whose
// nodes see no evidence.
const leasedEnv = "KEYSTEAD_TEST_LEASED"

// tpmEnv gives the node a TPM to seal its secret: the value is its socket.
const tpmEnv = "KEYSTEAD_TEST_TPM"

func TestMain(m *testing.M) {
	if config := os.Getenv(nodeEnv); config != "" {
		if err := runNode(config); err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
			os.Exit(7)
		}
		return
	}
	os.Exit(m.Run())
}

// runNode runs a node as keystead node run does.
func runNode(config string) error {
	cfg, err := node.ReadConfig(config)
	if err == nil && os.Getenv(memoryEnv) != "" {
		err = limitMemory(os.Getenv(memoryEnv))
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	opts := node.Options{Log: cfg.Log.Logger(os.Stderr)}
	opts.LieOfVerdicts(liar())
	if os.Getenv(leasedEnv) != "" {
		opts.LieOfLeases(leased)
	}
	if socket := os.Getenv(tpmEnv); socket != "" {
		tpm, err := collect.OpenTPM(socket)
		if err != nil {
			return err
		}
		defer tpm.Close()
		opts.Sealer = node.TPMSealer{TPM: tpm}
	}
	lie(cfg.Dir, &opts)
	n, err := node.Start(ctx, cfg, opts)
	if err != nil {
		return err
	}
	go usurp(ctx, n, cfg.Dir)
	select {
	case <-ctx.Done():
		return n.Close()
	case <-n.Done():
		return errors.Join(n.Err(), n.Close())
	}
}

// lieEnv makes such a node one that has every host admitted, whatever it shows; as "terms" one that
// endorses whatever terms members sign, whoever falls out.
const lieEnv = "KEYSTEAD_TEST_LIAR"

// liar returns the judges of a node that lies, or none.
func liar() []part.JudgedType {
	switch os.Getenv(lieEnv) {
	case "":
		return nil
	case "terms":
		return []part.JudgedType{{Type: admit.TypeTerms, Statement: key.KindTerms, Judge: endorseTerms}}
	}
	return []part.JudgedType{{Type: admit.TypeLease, Judge: func(_ context.Context, h *part.Hearing, out *ledger.Verdict) error {
		r := admit.Record{Until: 1 << 60, Role: admit.RoleHost, EK: keystead.Sum([]byte("any"))}
		out.Writes = []ledger.Write{{Key: admit.LeaseKey(h.Proposal.Subject), Value: r.Bytes()}}
		return nil
	}}}
}

// endorseTerms comes to the verdict of honest nodes, and asks nothing more.
func endorseTerms(ctx context.Context, h *part.Hearing, out *ledger.Verdict) error {
	return h.Read(func(v ledger.View) error {
		c := admit.Case{Domain: h.Domain, Subject: h.Proposal.Subject, Base: h.Proposal.Base, Roster: h.Roster}
		r, err := admit.JudgeTerms(v, c, h.Proposal.Content, func(d keystead.Digest) ([]byte, error) { return h.Object(ctx, d, "") })
		out.Content = r.Content
		for _, w := range r.Writes {
			out.Writes = append(out.Writes, ledger.Write(w))
		}
		return err
	})
}

// cluster is a domain of real processes on this machine.
type cluster struct {
	t      *testing.T
	dir    string
	member key.Member
	others []key.Member // all of whom must sign beside member
	nodes  []*process
	file   *client.Domain
	digest keystead.Digest
	wrap   func(i int) []string // words before the command, such as ip netns exec

	evidence bool   // nodes show some
	created  uint64 // the genesis entry's time
}

// process is a node, which may be started many times.
type process struct {
	place node.Place
	dir   string
	env   []string
	words []string // the command that runs it; this program if nil
	cmd   *exec.Cmd
	ended chan error
	said  string // file of its log, if not beside its directory
}

// log is the file of what the node says.
func (p *process) log() string {
	if p.said != "" {
		return p.said
	}
	return p.dir + ".log"
}

// whole is for tests of whole nodes, which wait more than they compute: make quick, which has
// three minutes, leaves them to make test.
func whole(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts whole nodes, which make quick leaves to make test")
	}
}

// found founds a domain of n nodes. Host gives node i's address, "" the loopback.
func found(t *testing.T, n int, host func(int) string, settings ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), file: &client.Domain{}}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		c.file.Contacts = append(c.file.Contacts, c.prepare(name, host(i), filepath.Join(c.dir, name)))
	}
	c.seal(settings...)
	return c
}

// seal signs the genesis entry and tells all nodes their domain.
func (c *cluster) seal(settings ...string) {
	c.t.Helper()
	var err error
	if c.member, err = key.NewMember(rand.Reader, "test.member"); err != nil {
		c.t.Fatal(err)
	}
	if !c.evidence {
		settings = append(slices.Clone(settings), "evidence=none")
	}
	if !slices.ContainsFunc(settings, func(s string) bool { return strings.HasPrefix(s, admit.EntryVersion+"=") }) {
		settings = append(slices.Clone(settings), admit.FoundingVersion())
	}
	slices.Sort(settings)
	genesis := receipt.Genesis{Name: "test", Created: uint64(time.Now().UnixMilli()), Settings: settings,
		Roster: receipt.Roster{Threshold: 1 + len(c.others), Members: []key.MemberPublic{c.member.Public()}}}
	for _, m := range c.others {
		genesis.Roster.Members = append(genesis.Roster.Members, m.Public())
	}
	for _, contact := range c.file.Contacts {
		opened, err := client.OpenContact(contact)
		if err != nil {
			c.t.Fatal(err)
		}
		genesis.Roster.Nodes = append(genesis.Roster.Nodes, opened.Node())
	}
	c.created = genesis.Created
	text, err := genesis.Text()
	if err != nil {
		c.t.Fatal(err)
	}
	if c.file.Genesis, err = c.member.Sign(text); err != nil {
		c.t.Fatal(err)
	}
	for _, m := range c.others {
		if c.file.Genesis, err = m.Cosign(c.file.Genesis); err != nil {
			c.t.Fatal(err)
		}
	}
	entry, err := receipt.NoteEntry(c.file.Genesis)
	if err != nil {
		c.t.Fatal(err)
	}
	c.digest = keystead.Sum(entry)
	for _, p := range c.nodes {
		c.enter(p)
	}
}

// prepare makes a node's directory and returns its contact.
func (c *cluster) prepare(name, host, dir string) []byte {
	c.t.Helper()
	whole(c.t)
	if host == "" {
		host = "127.0.0.1"
	}
	p := &process{place: node.Place{OpenWrites: true, Name: name, Peer: address(c.t, host), API: address(c.t, host), Ops: address(c.t, host)}, dir: dir}
	if !c.evidence {
		p.env = []string{leasedEnv + "=1"}
	}
	contact, err := node.Prepare(context.Background(), p.dir, p.place)
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes = append(c.nodes, p)
	return contact
}

func (c *cluster) enter(p *process) {
	c.t.Helper()
	if err := node.Enter(p.dir, c.file, c.digest); err != nil {
		c.t.Fatal(err)
	}
}

// address returns host and a port that no other test is given.
func address(t *testing.T, host string) string {
	t.Helper()
	port, err := freeport.Next()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// start starts node i; its log goes on in its directory.
func (c *cluster) start(i int) {
	c.t.Helper()
	p := c.nodes[i]
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	words := []string{os.Args[0]}
	if p.words != nil {
		words = p.words
	}
	if c.wrap != nil {
		words = append(c.wrap(i), words...)
	}
	p.cmd = exec.Command(words[0], words[1:]...)
	p.cmd.Env = append(append(os.Environ(), nodeEnv+"="+filepath.Join(p.dir, node.ConfigFile)), p.env...)
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := make(chan error, 1)
	p.ended = ended
	cmd := p.cmd
	go func() { ended <- cmd.Wait() }()
}

func (c *cluster) startAll() {
	c.t.Helper()
	c.t.Cleanup(func() {
		for _, p := range c.nodes {
			if p.cmd != nil {
				_ = p.cmd.Process.Kill() // it may be gone
				<-p.ended
			}
		}
		if c.t.Failed() {
			for _, p := range c.nodes {
				b, _ := os.ReadFile(p.log())
				lines := strings.Split(string(b), "\n")
				c.t.Logf("%s:\n%s", p.place.Name, strings.Join(lines[max(0, len(lines)-25):], "\n"))
			}
		}
	})
	for i := range c.nodes {
		c.start(i)
	}
}

// end sends a signal and waits for the process to end.
func (c *cluster) end(i int, s syscall.Signal) error {
	c.t.Helper()
	c.signal(i, s)
	select {
	case err := <-c.nodes[i].ended:
		c.nodes[i].cmd = nil
		return err
	case <-time.After(patience):
		c.t.Fatalf("%s does not end after %v", c.nodes[i].place.Name, s)
		return nil
	}
}

func (c *cluster) signal(i int, s syscall.Signal) {
	c.t.Helper()
	if err := c.nodes[i].cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// client returns a client of the domain, or of one node of it.
func (c *cluster) client(only string) *client.Client {
	c.t.Helper()
	cl, err := client.Open(c.file, c.digest, client.Options{Only: only, Attempt: 2 * time.Second})
	for end := time.Now().Add(patience); errors.Is(err, keystead.ReasonNotMember) && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		cl, err = client.Open(c.file, c.digest, client.Options{Only: only, Attempt: 2 * time.Second}) // who is asked may be behind, and not know a new node yet
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

// until polls what a node says of itself until it is as wanted.
func (c *cluster) until(i int, what string, wanted func(*apiv1.StatusResponse) bool) *apiv1.StatusResponse {
	c.t.Helper()
	cl := c.client(c.nodes[i].place.Name)
	deadline := time.Now().Add(patience)
	var last *apiv1.StatusResponse
	var failed error
	for time.Now().Before(deadline) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		s, err := cl.Status(ctx)
		cancel()
		failed = err
		if err == nil {
			if last = s; wanted(s) {
				return s
			}
		}
		time.Sleep(20 * time.Millisecond) // between two questions, for no event
	}
	c.t.Fatalf("%s: %s: not within %v; last %v, %v", c.nodes[i].place.Name, what, patience, last, failed)
	return nil
}

// whole waits until all of the nodes are voters, led, and fresh.
func (c *cluster) whole(nodes ...int) {
	c.t.Helper()
	for _, i := range nodes {
		c.until(i, "a whole domain", func(s *apiv1.StatusResponse) bool {
			voters := 0
			for _, p := range s.GetPeers() {
				if p.GetRole() == "voter" {
					voters++
				}
			}
			return s.GetLeader() != "" && s.GetFresh() && voters == len(nodes) && s.GetCheckpointSize() > 0
		})
	}
}

// leader returns the number of the node that leads, as seen by node i.
func (c *cluster) leader(i int) int {
	c.t.Helper()
	s := c.until(i, "a leader", func(s *apiv1.StatusResponse) bool { return s.GetLeader() != "" })
	return slices.IndexFunc(c.nodes, func(p *process) bool { return p.place.Name == s.GetLeader() })
}

func loopback(int) string { return "" }
