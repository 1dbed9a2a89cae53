package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hpke"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	appv1 "github.com/keystead/keystead/api/app/v1"
	"github.com/keystead/keystead/api/app/v1/appv1connect"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/internal/specimen"
)

// court is how the nodes of a domain judge statements: as a real node does, by app.Open, with
// roots and denials that the test sets.
type court struct {
	appv1connect.UnimplementedApplicationServiceHandler
	*node

	mu         sync.Mutex
	challenges map[[32]byte]time.Time
}

// judged is what the nodes of a domain say of applications.
type judged struct {
	roots  []byte                   // the object app-roots; nil for none
	denied map[keystead.Digest]bool // app/DIGEST
	seen   []app.Application        // statements that were accepted
	least  process.Level
	holdMS uint64
}

func (c *court) Challenge(ctx context.Context, _ *connect.Request[appv1.ChallengeRequest]) (*connect.Response[appv1.ChallengeResponse], error) {
	if _, err := c.peer(ctx); err != nil {
		return nil, err
	}
	var b [32]byte
	rand.Read(b[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	c.challenges[b] = time.Now()
	return connect.NewResponse(&appv1.ChallengeResponse{Challenge: b[:]}), nil
}

// open judges a statement to a challenge that this node gave and that was not answered yet.
func (c *court) open(ctx context.Context, raw []byte, use app.Use) (app.Application, error) {
	if _, err := c.peer(ctx); err != nil {
		return app.Application{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.domain.mu.Lock()
	defer c.domain.mu.Unlock()
	if c.suspended != nil {
		return app.Application{}, refusal.Encode(c.suspended)
	}
	roots := &app.Roots{}
	if c.apps.roots != nil {
		var err error
		if roots, err = app.ParseRoots(c.apps.roots); err != nil {
			return app.Application{}, err
		}
	}
	subject, err := x509.ParsePKIXPublicKey(c.lease.GetSubjectKey())
	if err != nil {
		return app.Application{}, err
	}
	e := app.Expected{Domain: c.digest, Host: "web-1", Lease: c.lease.GetVersion(), Subject: subject, Use: use, Least: c.apps.least, Roots: roots,
		At: time.Now(), Now: time.Now(), Denied: func(d keystead.Digest) bool { return c.apps.denied[d] }, Known: func(keystead.Digest) bool { return true }}
	e.Boot = bootID()
	if e.Challenge, err = app.PeekChallenge(raw); err != nil {
		return app.Application{}, err
	}
	e.Asked = c.challenges[e.Challenge] // long ago, of one that was never given
	delete(c.challenges, e.Challenge)
	a, err := app.Open(raw, e)
	if err != nil {
		return a, refusal.Encode(err)
	}
	c.apps.seen = append(c.apps.seen, a)
	return a, nil
}

func (c *court) Release(ctx context.Context, q *connect.Request[appv1.ReleaseRequest]) (*connect.Response[appv1.ReleaseResponse], error) {
	a, err := c.open(ctx, q.Msg.GetStatement(), app.UseRelease)
	if err != nil {
		return nil, err
	}
	s := a.Statement()
	report, err := process.Verify(q.Msg.GetReport(), s.Challenge, s.Boot)
	if err != nil {
		return nil, refusal.Encode(err)
	}
	d := keystead.Sum(q.Msg.GetReport())
	if len(s.Attribute) != 1 || s.Attribute[0] != (app.Attribute{Name: "report", Value: hex.EncodeToString(d[:])}) {
		return nil, errors.New("the statement is not over this report")
	}
	kdf, aead := process.Suite()
	sealed, err := hpke.Seal(report.Wrapping, kdf, aead, process.Info(q.Msg.GetReport()), []byte("secret of "+report.Key))
	return connect.NewResponse(&appv1.ReleaseResponse{Sealed: sealed, Version: 7, HoldsMs: c.apps.holdMS}), err
}

func bootID() process.BootID {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		panic(err)
	}
	id, err := process.ParseBootID(string(b))
	if err != nil {
		panic(err)
	}
	return id
}

// vouchedBy makes an authority the root of the domain's applications.
func (d *domain) vouchedBy(a *specimen.Authority, change ...func(*app.Root)) {
	r := app.Root{Prefix: "*", Least: process.Peer, Hosts: []string{"*"}, Users: []app.Users{app.EveryUser}, Certificate: a.Root}
	for _, c := range change {
		c(&r)
	}
	text, err := app.FormatRoots([]app.Root{r})
	must(d.t, err)
	d.set(func() {
		d.apps.roots = text
		d.objects[keystead.Sum(text)] = text
	})
}

// states are judged values that the nodes have.
func (d *domain) states(key string) ([]byte, bool) {
	switch {
	case key == admit.TypeTerms+"/"+admit.RoleHost && d.apps.roots != nil:
		terms := d.terms
		terms.Systems = []admit.Named{{Digest: keystead.Sum(d.apps.roots), Kind: admit.ObjectAppRoots}}
		text, err := terms.Text()
		return text, err == nil
	case strings.HasPrefix(key, admit.TypeDenial+"/app/"):
		x, err := keystead.ParseDigest(strings.TrimPrefix(key, admit.TypeDenial+"/app/"))
		return []byte("denied"), err == nil && d.apps.denied[x]
	}
	return nil, false
}

// signedEnv makes the test's binary a signed application: it connects to the socket, and obeys
// lines on standard input.
const signedEnv = "KEYSTEAD_TEST_SIGNED"

// obey answers "challenge", "release KEY" (to that challenge), and "get KEY" (both).
func obey(path string) error {
	p, local := open(path), client.Local(path)
	if path == "launched" {
		local = client.Launched()
	}
	var c *apiv1.ChallengeResponse
	fmt.Println("here")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		word, key, _ := strings.Cut(in.Text(), " ")
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		var err error
		out := "ok"
		switch word {
		case "challenge":
			var r *connect.Response[apiv1.ChallengeResponse]
			if r, err = p.Challenge(ctx, connect.NewRequest(&apiv1.ChallengeRequest{})); err == nil {
				c = r.Msg
			}
		case "release":
			out, err = p.released(ctx, c, key)
		case "get":
			var k *client.ReleasedKey
			if k, err = local.Release(ctx, key, 0); err == nil {
				out = string(k.Bytes())
			}
		case "byhand":
			out, err = byHand(path, key == "child")
		case "spiffe":
			out, err = fetched(ctx, path, key)
		case "exit":
			cancel()
			status, _ := strconv.Atoi(key)
			os.Exit(status)
		}
		cancel()
		if err != nil {
			out = "refused: " + refusal.Decode(err).Error()
		}
		fmt.Println(strings.ReplaceAll(out, "\n", " "))
	}
	return nil
}

func (p *application) released(ctx context.Context, c *apiv1.ChallengeResponse, key string) (string, error) {
	wrapping, err := process.KEMs()[0].GenerateKey()
	if err != nil {
		return "", err
	}
	raw, err := (process.Report{Challenge: [32]byte(c.GetChallenge()), Boot: process.BootID(c.GetBootId()), Key: key, Wrapping: wrapping.PublicKey()}).Encode()
	if err != nil {
		return "", err
	}
	r, err := p.ReleaseKey(ctx, connect.NewRequest(&apiv1.ReleaseKeyRequest{Report: raw}))
	if err != nil {
		return "", err
	}
	kdf, aead := process.Suite()
	secret, err := hpke.Open(wrapping, kdf, aead, process.Info(raw), r.Msg.GetSealed())
	return string(secret), err
}

// program is a process that obeys lines and answers with lines.
type program struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

// runs starts a program that says "here".
func runs(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	p := &program{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if got := p.hears(); got != "here" {
		t.Fatalf("the program says %q", got)
	}
	return p
}

func (p *program) hears() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the program ended: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

// does has the program obey, and returns what it answers.
func (p *program) does(line string) string {
	p.t.Helper()
	_, err := fmt.Fprintln(p.in, line)
	must(p.t, err)
	return p.hears()
}

// names demands that an answer is a refusal that begins with a reason.
func (p *program) names(what, answer string, want keystead.Reason) {
	p.t.Helper()
	if !strings.Contains(answer, string(want)+":") {
		p.t.Errorf("%s: want %s, got %s", what, want, answer)
	}
}

var signedSelf struct {
	once sync.Once
	dir  string
	path string
	by   *specimen.Authority
	err  error
}

// myself returns the test's binary as a program that an authority signed. It is root's, and stays
// for the whole run.
func myself(t *testing.T) (string, *specimen.Authority) {
	t.Helper()
	signedSelf.once.Do(func() {
		self, err := os.Executable()
		must(t, err)
		signedSelf.dir, err = os.MkdirTemp("", "signed-")
		must(t, err)
		content, err := os.ReadFile(self)
		must(t, err)
		plain := filepath.Join(signedSelf.dir, "program")
		must(t, os.WriteFile(plain, content, 0o755))
		if image, err := app.ParseImage(bytes.NewReader(content), int64(len(content))); err != nil || image.Interpreter != "" {
			// The race detector's binary has a loader, and can not be launched.
			build := exec.Command("go", "test", "-c", "-o", plain, ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		must(t, os.Chmod(signedSelf.dir, 0o755))
		signedSelf.by = specimen.NewAuthority(t)
		signedSelf.path = signedSelf.by.Sign(t, plain, "billing")
	})
	if signedSelf.path == "" {
		t.Fatal("the test's binary was not signed")
	}
	return signedSelf.path, signedSelf.by
}

// asks starts the signed test binary as an application of an agent.
func asks(t *testing.T, a *Agent, path string) *program {
	t.Helper()
	cmd := exec.Command(path)
	cmd.Env = []string{signedEnv + "=" + a.cfg.Socket.Path}
	return runs(t, cmd)
}

// admitted starts an agent with a lease, on a domain with an authority for applications.
func admitted(t *testing.T, by *specimen.Authority) (*domain, *Agent) {
	t.Helper()
	d, m := newDomain(t)
	d.apps.holdMS = 60_000
	d.vouchedBy(by)
	a := d.start(m)
	d.enrol(a)
	d.phase(a, Admitted)
	return d, a
}

// TestSignedProgram has a signed program get a key: a node judges what the agent states of it, and
// seals to the program's own key. It does so again and again, and not once its certificate is
// denied, or a root does not admit it.
func TestSignedProgram(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	d, a := admitted(t, by)
	p := asks(t, a, path)
	for range 2 {
		if got := p.does("get billing"); got != "secret of billing" {
			t.Fatalf("got %q", got)
		}
	}
	d.mu.Lock()
	seen := slices.Clone(d.apps.seen)
	released := len(d.released)
	d.mu.Unlock()
	if len(seen) != 2 || released != 0 {
		t.Fatalf("%d statements, and %d releases at level peer", len(seen), released)
	}
	s := seen[0].Statement()
	if s.Level != process.Measured || s.Name() != "billing" || s.Coverage != app.CoveragePages || s.UID != 0 || s.Inode == 0 || len(s.Mappings) != 0 {
		t.Errorf("the agent states %+v", s)
	}
	if got := p.does("challenge"); got != "ok" {
		t.Fatal(got)
	}
	if got := p.does("release other"); got != "secret of other" {
		t.Errorf("got %q", got)
	}
	p.names("a challenge twice", p.does("release other"), keystead.ReasonReportReplayed)

	t.Run("below the node's least level", func(t *testing.T) {
		d.set(func() { d.apps.least = process.Launched })
		defer d.set(func() { d.apps.least = 0 })
		p.names("level", p.does("get billing"), keystead.ReasonLevelLow)
	})
	t.Run("when its certificate is denied", func(t *testing.T) {
		d.set(func() { d.apps.denied = map[keystead.Digest]bool{seen[0].Identity().Key(): true} })
		began := time.Now()
		p.names("denied", p.does("get billing"), keystead.ReasonAppCertRevoked)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		// The agent knows by itself as well, once what it knew is old.
		until(t, "the agent to know of the denial", func() bool {
			return strings.Contains(p.does("challenge"), string(keystead.ReasonAppCertRevoked)+":")
		})
	})
}

// TestSignedWithoutRoots: nobody vouches; another root does; the root lets it run elsewhere.
func TestSignedWithoutRoots(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	for _, tc := range []struct {
		name   string
		by     *specimen.Authority
		change func(*app.Root)
		want   keystead.Reason
	}{
		{"another root", specimen.NewAuthority(t), nil, keystead.ReasonAppCertForeign},
		{"for another name", by, func(r *app.Root) { r.Prefix = "invoices" }, keystead.ReasonAppCertForeign},
		{"on another host", by, func(r *app.Root) { r.Hosts = []string{"web-2"} }, keystead.ReasonApplicationMismatch},
		{"under another user", by, func(r *app.Root) { r.Users = []app.Users{{First: 900, Last: 999}} }, keystead.ReasonApplicationMismatch},
		{"when launched alone", by, func(r *app.Root) { r.Least = process.Launched }, keystead.ReasonLevelLow},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d, m := newDomain(t)
			if tc.change == nil {
				d.vouchedBy(tc.by)
			} else {
				d.vouchedBy(tc.by, tc.change)
			}
			a := d.start(m)
			d.enrol(a)
			d.phase(a, Admitted)
			p := asks(t, a, path)
			p.names(tc.name, p.does("get billing"), tc.want)
			d.mu.Lock()
			defer d.mu.Unlock()
			if len(d.apps.seen)+len(d.released) != 0 {
				t.Error("a node was asked for a key")
			}
		})
	}
}

// TestSignedAttacked changes the program between the challenge and the answer to it.
func TestSignedAttacked(t *testing.T) {
	t.Parallel()
	path, by := myself(t)
	_, a := admitted(t, by)
	for _, tc := range []struct {
		name   string
		attack func(*testing.T, *program)
		want   keystead.Reason
	}{
		{"a byte of its code", func(t *testing.T, p *program) { poke(t, p.cmd.Process.Pid, "r-xp") }, keystead.ReasonTextAltered},
		{"a byte of its constants", func(t *testing.T, p *program) { poke(t, p.cmd.Process.Pid, "r--p") }, keystead.ReasonTextAltered},
		{"a debugger", trace, keystead.ReasonProcessTraced},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := asks(t, a, path)
			if got := p.does("challenge"); got != "ok" {
				t.Fatal(got)
			}
			tc.attack(t, p)
			p.names("since", p.does("release billing"), tc.want)
			p.names("before", p.does("challenge"), tc.want)
		})
	}
}

// poke writes a byte of a process's memory, where its program is mapped with permissions.
func poke(t *testing.T, pid int, permissions string) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != permissions || !strings.HasPrefix(f[5], "/") {
			continue
		}
		start, err := strconv.ParseInt(strings.Split(f[0], "-")[0], 16, 64)
		must(t, err)
		mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
		must(t, err)
		defer mem.Close()
		b := make([]byte, 1)
		_, err = mem.ReadAt(b, start+64)
		must(t, err)
		b[0] ^= 1
		_, err = mem.WriteAt(b, start+64)
		must(t, err)
		return
	}
	t.Fatalf("nothing is mapped %s in\n%s", permissions, maps)
}

// trace attaches a debugger that lets the process run on, from a thread that stays.
func trace(t *testing.T, p *program) {
	t.Helper()
	attached, end := make(chan error), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(p.cmd.Process.Pid), 0, 0, 0, 0)
		if errno != 0 {
			attached <- errno
			return
		}
		attached <- nil
		<-end
	}()
	must(t, <-attached)
	t.Cleanup(func() { close(end); <-done })
}

// TestAskerAttacked mounts attacks that begin with who starts or follows a signed program of C.
func TestAskerAttacked(t *testing.T) {
	t.Parallel()
	by := specimen.NewAuthority(t)
	d, a := admitted(t, by)
	socket := a.cfg.Socket.Path
	plain := specimen.Build(t, specimen.Asker)
	signed := by.Sign(t, plain, "asker")
	asker := func(t *testing.T, path string, change ...func(*exec.Cmd)) *program {
		cmd := exec.Command(path, socket)
		for _, c := range change {
			c(cmd)
		}
		return runs(t, cmd)
	}
	good := func(answer string) bool { return strings.Contains(answer, `"challenge"`) }

	if got := asker(t, signed).does("ask"); !good(got) {
		t.Fatalf("nobody attacks: %s", got)
	}
	if got := asker(t, plain).does("ask"); !good(got) {
		t.Fatalf("one that is not signed goes on at level peer: %s", got)
	}

	t.Run("a child asks", func(t *testing.T) {
		p := asker(t, signed)
		p.names("child", p.does("childask"), keystead.ReasonSenderForeign)
		p.names("and for good", p.does("ask"), keystead.ReasonSenderForeign)
	})
	t.Run("exec hand-off", func(t *testing.T) {
		other := specimen.Build(t, specimen.Asker) // an unsigned starter connects, and becomes a signed program
		p := asker(t, other)
		p.names("hand-off", p.handsOff("hold "+signed), keystead.ReasonSenderForeign)
	})
	t.Run("passed descriptor", func(t *testing.T) {
		p := asker(t, signed)
		pidfd, err := unix.PidfdOpen(p.cmd.Process.Pid, 0)
		must(t, err)
		defer unix.Close(pidfd)
		stolen, err := unix.PidfdGetfd(pidfd, socketOf(t, p), 0)
		must(t, err)
		defer unix.Close(stolen)
		_, err = unix.Write(stolen, []byte("POST /keystead.v1.AgentService/Challenge HTTP/1.1\r\nX: ")) // and the program goes on
		must(t, err)
		p.names("stolen", p.does("ask"), keystead.ReasonSenderForeign)
	})
	t.Run("another namespace", func(t *testing.T) {
		for _, flags := range []uintptr{syscall.CLONE_NEWPID, syscall.CLONE_NEWNS, syscall.CLONE_NEWUSER} {
			p := asker(t, signed, func(c *exec.Cmd) {
				c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
				if flags == syscall.CLONE_NEWUSER {
					c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{Size: 1}}
				}
			})
			p.names(fmt.Sprintf("%#x", flags), p.does("ask"), keystead.ReasonSenderForeign)
		}
		if got := asker(t, plain, func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID} }).does("ask"); !good(got) {
			t.Errorf("one that is not signed, in a container: %s", got)
		}
	})
	t.Run("LD_PRELOAD", func(t *testing.T) {
		library := specimen.Build(t, specimen.Library)
		must(t, os.Chmod(filepath.Dir(library), 0o755))
		p := asker(t, signed, func(c *exec.Cmd) { c.Env = append(os.Environ(), "LD_PRELOAD="+library) })
		p.names("preload", p.does("ask"), keystead.ReasonMappingForeign)
	})
	t.Run("filter of its starter", func(t *testing.T) {
		starter := exec.Command(specimen.Build(t, specimen.Starter), socket, signed, "silent")
		p := runsAfter(t, starter, "kept")
		p.names("filter", p.does("ask"), keystead.ReasonProcessFiltered)
	})
	t.Run("altered file", func(t *testing.T) {
		content, err := os.ReadFile(signed)
		must(t, err)
		content[bytes.Index(content, []byte("closed\x00"))]++ // a word that it does not say
		altered := filepath.Join(t.TempDir(), "asker")
		must(t, os.WriteFile(altered, content, 0o755))
		p := asker(t, altered)
		p.names("altered", p.does("ask"), keystead.ReasonAppAltered)
	})
	t.Run("moved", func(t *testing.T) {
		moved := filepath.Join(t.TempDir(), "asker")
		copyFile(t, signed, moved)
		p := asker(t, moved)
		must(t, os.Remove(moved))
		p.names("moved", p.does("ask"), keystead.ReasonExecutableMoved)
	})
	t.Run("not root's", func(t *testing.T) {
		own := filepath.Join(t.TempDir(), "asker")
		copyFile(t, signed, own)
		must(t, os.Chown(own, 1000, 1000))
		p := asker(t, own)
		p.names("own", p.does("ask"), keystead.ReasonBinaryUnsuitable)
	})
	t.Run("expired", func(t *testing.T) {
		old := *by
		old.Now = time.Now().Add(-2 * time.Hour)
		p := asker(t, old.Sign(t, filepath.Join(linkDir(t, plain), "asker"), "asker"))
		p.names("expired", p.does("ask"), keystead.ReasonAppCertExpired)
	})
	t.Run("without a lease", func(t *testing.T) {
		p := asker(t, signed)
		d.set(func() { d.suspended = keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseSuspended}) })
		a.do(func(c *Core, now Moment) Ready {
			return c.Told(now, keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseSuspended, Where: "host"}))
		})
		p.names("no lease", p.does("ask"), keystead.ReasonLeaseSuspended)
	})
}

// handsOff has the program run another, and returns what whoever holds the connection hears.
func (p *program) handsOff(line string) string {
	p.t.Helper()
	got := p.does(line)
	for got == "here" {
		got = p.hears()
	}
	return got
}

// runsAfter starts a program that says a word and then is another program, which says "here".
func runsAfter(t *testing.T, cmd *exec.Cmd, word string) *program {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	p := &program{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, cmd.Start())
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	heard := map[string]bool{p.hears(): true, p.hears(): true} // in either order
	if !heard[word] || !heard["here"] {
		t.Fatalf("heard %v", heard)
	}
	return p
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, content, 0o755))
}

// linkDir returns a new directory with a copy of the program.
func linkDir(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	copyFile(t, program, filepath.Join(dir, "asker"))
	return dir
}

// socketOf returns the number of the program's descriptor that is a socket.
func socketOf(t *testing.T, p *program) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
	fds, err := os.ReadDir(dir)
	must(t, err)
	for _, f := range fds {
		to, err := os.Readlink(filepath.Join(dir, f.Name()))
		must(t, err)
		if n, err := strconv.Atoi(f.Name()); err == nil && n > 2 && strings.HasPrefix(to, "socket:") {
			return n
		}
	}
	t.Fatal("the program has no socket")
	return 0
}

// TestUnmeasurable: on a kernel that does not say who sends, signed programs go on at level peer; where
// it says that somebody else does, they are refused.
func TestUnmeasurable(t *testing.T) {
	for want, why := range map[bool]error{
		false: &collect.Error{Found: "this kernel does not name senders by pidfd"},
		true:  keystead.Deny(keystead.Finding{Reason: keystead.ReasonSenderForeign}),
	} {
		if got := (&visitor{unknown: why}).measurable(); got != want {
			t.Errorf("%v: measurable is %v", why, got)
		}
	}
}
