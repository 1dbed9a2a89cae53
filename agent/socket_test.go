package agent

import (
	"bytes"
	"context"
	"crypto/hpke"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/app/launch"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/refusal"
)

// appEnv makes the test's binary an application: it connects to the first of two
// sockets, hands the connection on over the second, and stays until standard input ends.
const appEnv = "KEYSTEAD_TEST_APPLICATION"

func TestMain(m *testing.M) {
	if paths, ok := os.LookupEnv(appEnv); ok {
		if err := handOn(strings.Split(paths, "\n")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	launch.Stage()
	if how, ok := os.LookupEnv(runEnv); ok {
		os.Exit(runCommand(how))
	}
	if _, ok := os.LookupEnv(answererEnv); ok {
		fmt.Print(answers(os.NewFile(3, "connection")))
		os.Exit(0)
	}
	if path, ok := os.LookupEnv(signedEnv); ok {
		if err := obey(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	status := m.Run()
	if signedSelf.dir != "" {
		_ = os.RemoveAll(signedSelf.dir)
	}
	os.Exit(status)
}

func handOn(paths []string) error {
	agent, err := net.Dial("unix", paths[0])
	if err != nil {
		return err
	}
	f, err := agent.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	to, err := net.Dial("unix", paths[1])
	if err != nil {
		return err
	}
	if _, _, err := to.(*net.UnixConn).WriteMsgUnix([]byte{0}, syscall.UnixRights(int(f.Fd())), nil); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// application is one connection to the agent's socket.
type application struct {
	apiv1connect.AgentServiceClient
	transport *http.Transport
}

func open(path string) *application {
	t := &http.Transport{MaxConnsPerHost: 1, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	return &application{apiv1connect.NewAgentServiceClient(&http.Client{Transport: t}, "http://agent"), t}
}

// connects returns an application of this process.
func connects(t *testing.T, a *Agent) *application {
	p := open(a.cfg.Socket.Path)
	t.Cleanup(p.transport.CloseIdleConnections)
	return p
}

// challenged asks for a challenge, and returns a report that answers it.
func (p *application) challenged(t *testing.T) process.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := p.Challenge(ctx, connect.NewRequest(&apiv1.ChallengeRequest{}))
	must(t, err)
	wrapping, err := process.KEMs()[0].GenerateKey()
	must(t, err)
	return process.Report{Challenge: [32]byte(c.Msg.GetChallenge()), Boot: process.BootID(c.Msg.GetBootId()), Key: "billing", Wrapping: wrapping.PublicKey()}
}

// sends sends a report's bytes.
func (p *application) sends(raw []byte) (*apiv1.ReleaseKeyResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := p.ReleaseKey(ctx, connect.NewRequest(&apiv1.ReleaseKeyRequest{Report: raw}))
	if err != nil {
		return nil, refusal.Decode(err)
	}
	return r.Msg, nil
}

func encoded(t *testing.T, r process.Report) []byte {
	t.Helper()
	raw, err := r.Encode()
	must(t, err)
	return raw
}

// TestReports offers the agent reports that do not answer the connection's challenge.
func TestReports(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m)
	d.enrol(a)
	d.phase(a, Admitted)

	t.Run("of another connection", func(t *testing.T) {
		mine, theirs := connects(t, a), connects(t, a)
		report := theirs.challenged(t)
		mine.challenged(t)
		_, err := mine.sends(encoded(t, report))
		is(t, err, keystead.ReasonReportReplayed)
	})
	t.Run("to another's challenge, with a wrapping key of one's own", func(t *testing.T) {
		mine, theirs := connects(t, a), connects(t, a)
		report, own := theirs.challenged(t), mine.challenged(t)
		report.Wrapping = own.Wrapping
		_, err := mine.sends(encoded(t, report))
		is(t, err, keystead.ReasonReportReplayed)
	})
	t.Run("with another's wrapping key", func(t *testing.T) { // is of use to that other only
		mine := connects(t, a)
		victim, err := process.KEMs()[0].GenerateKey()
		must(t, err)
		own, err := process.KEMs()[0].GenerateKey()
		must(t, err)
		report := mine.challenged(t)
		report.Wrapping = victim.PublicKey()
		raw := encoded(t, report)
		r, err := mine.sends(raw)
		must(t, err)
		kdf, aead := process.Suite()
		if _, err := hpke.Open(own, kdf, aead, process.Info(raw), r.GetSealed()); err == nil {
			t.Error("opened with another key than the report's")
		}
		if k, err := hpke.Open(victim, kdf, aead, process.Info(raw), r.GetSealed()); err != nil || string(k) != "secret of billing" {
			t.Errorf("%q, %v", k, err)
		}
	})
	t.Run("twice", func(t *testing.T) {
		p := connects(t, a)
		raw := encoded(t, p.challenged(t))
		_, err := p.sends(raw)
		must(t, err)
		_, err = p.sends(raw)
		is(t, err, keystead.ReasonReportReplayed)
	})
	t.Run("to the challenge before the last", func(t *testing.T) {
		p := connects(t, a)
		raw := encoded(t, p.challenged(t))
		p.challenged(t)
		_, err := p.sends(raw)
		is(t, err, keystead.ReasonReportReplayed)
	})
	t.Run("without a challenge", func(t *testing.T) {
		p := connects(t, a)
		raw := encoded(t, p.challenged(t))
		p.transport.CloseIdleConnections()
		_, err := connects(t, a).sends(raw)
		is(t, err, keystead.ReasonReportReplayed)
	})
	t.Run("of another machine", func(t *testing.T) {
		p := connects(t, a)
		report := p.challenged(t)
		report.Boot[0] ^= 1
		_, err := p.sends(encoded(t, report))
		is(t, err, keystead.ReasonReportForeign)
	})
	t.Run("that do not parse", func(t *testing.T) {
		p := connects(t, a)
		raw := encoded(t, p.challenged(t))
		_, err := p.sends(raw[:len(raw)-1])
		is(t, err, keystead.ReasonMalformed)
		_, err = p.sends(raw) // the challenge is used up
		is(t, err, keystead.ReasonReportReplayed)
	})
	t.Run("that are too long", func(t *testing.T) {
		p := connects(t, a)
		_, err := p.sends(make([]byte, maxRequest+1))
		is(t, err, keystead.ReasonTooLarge)
	})
}

// TestOldChallenge answers after the challenge's time.
func TestOldChallenge(t *testing.T) {
	v := &visitor{last: &challenge{given: 0}}
	if _, err := v.take(Moment(challengeLife)); err != nil {
		t.Fatal(err)
	}
	v.last = &challenge{given: 0}
	_, err := v.take(Moment(challengeLife) + 1)
	is(t, err, keystead.ReasonReportReplayed)
}

// TestApplicationLeaves has a process connect, hand the connection on, and end between
// challenge and answer. Who has the connection then gets nothing.
func TestApplicationLeaves(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m)
	d.enrol(a)
	d.phase(a, Admitted)
	over := a.cfg.Socket.Path + "2"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: over, Net: "unix"})
	must(t, err)
	defer l.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), appEnv+"="+a.cfg.Socket.Path+"\n"+over)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	conn := taken(t, l)
	p := &application{transport: &http.Transport{MaxConnsPerHost: 1, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	p.AgentServiceClient = apiv1connect.NewAgentServiceClient(&http.Client{Transport: p.transport}, "http://agent")
	raw := encoded(t, p.challenged(t))
	must(t, in.Close())
	must(t, cmd.Wait())
	_, err = p.sends(raw)
	is(t, err, keystead.ReasonProcessGone)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.released) != 0 {
		t.Error("a node was asked for a key")
	}
}

// taken returns the connection that a process hands on.
func taken(t *testing.T, l *net.UnixListener) net.Conn {
	t.Helper()
	must(t, l.SetDeadline(time.Now().Add(patience)))
	from, err := l.AcceptUnix()
	must(t, err)
	defer from.Close()
	oob := make([]byte, 64)
	_, n, _, _, err := from.ReadMsgUnix(make([]byte, 1), oob)
	must(t, err)
	messages, err := syscall.ParseSocketControlMessage(oob[:n])
	must(t, err)
	fds, err := syscall.ParseUnixRights(&messages[0])
	must(t, err)
	f := os.NewFile(uintptr(fds[0]), "handed on")
	defer f.Close()
	conn, err := net.FileConn(f)
	must(t, err)
	return conn
}

// TestSlowApplications opens connections that say nothing, or take for ever, beside one
// that works.
func TestSlowApplications(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m, func(c *Config) { c.Socket.MaxConnections, c.Socket.MaxPerUser = 8, 8 })
	d.enrol(a)
	d.phase(a, Admitted)
	for i := range 6 {
		c, err := net.Dial("unix", a.cfg.Socket.Path)
		must(t, err)
		defer c.Close()
		if i%2 == 0 {
			_, err = io.WriteString(c, "POST /keystead.v1.AgentService/ReleaseKey HTTP/1.1\r\nHost: a\r\nContent-Type: application/proto\r\nContent-Length: 100\r\n\r\nx")
			must(t, err)
		}
	}
	_, err := release(a, "billing")
	must(t, err)
}

// TestTooManyConnections fills the socket for one user.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m, func(c *Config) { c.Socket.MaxConnections, c.Socket.MaxPerUser = 8, 2 })
	var open []net.Conn
	for range 2 {
		c, err := net.Dial("unix", a.cfg.Socket.Path)
		must(t, err)
		defer c.Close()
		open = append(open, c)
	}
	c, err := net.Dial("unix", a.cfg.Socket.Path)
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	if n, err := c.Read(make([]byte, 1)); n != 0 || (!errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET)) {
		t.Errorf("a connection too many: %d bytes, %v", n, err)
	}
	must(t, open[0].Close())
	until(t, "room for another connection", func() bool {
		_, err := client.Local(a.cfg.Socket.Path).Status(context.Background())
		return err == nil
	})
}

func TestTooManyReleases(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m, func(c *Config) { c.Socket.ReleasesPerSecond = 1 })
	d.enrol(a)
	d.phase(a, Admitted)
	var err error
	for range 100 {
		if _, err = release(a, "billing"); err != nil {
			break
		}
	}
	is(t, err, keystead.ReasonOverloaded)
}

// TestStuckMeasurement takes all measurements of a user; another's go on.
func TestStuckMeasurement(t *testing.T) {
	s := newUsers(SocketConfig{MaxConnections: 4, MaxPerUser: 2, ReleasesPerSecond: 1})
	stuck, _ := s.enter(1, 0)
	other, _ := s.enter(2, 0)
	never := make(chan struct{})
	defer close(never)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range measurements {
		_, err := measure(ctx, stuck, func() (int, error) { <-never; return 0, nil })
		if !errors.Is(err, keystead.ReasonTimeout) && !errors.Is(err, keystead.ReasonOverloaded) {
			t.Fatal(err)
		}
	}
	for len(stuck.slots) < measurements { // a context that is over may win over a free slot
		go measure(context.Background(), stuck, func() (int, error) { <-never; return 0, nil })
		time.Sleep(time.Millisecond)
	}
	_, err := measure(ctx, stuck, func() (int, error) { return 1, nil })
	is(t, err, keystead.ReasonOverloaded)
	if n, err := measure(context.Background(), other, func() (int, error) { return 1, nil }); n != 1 || err != nil {
		t.Errorf("another user: %d, %v", n, err)
	}
}

func TestUsersAreForgotten(t *testing.T) {
	s := newUsers(SocketConfig{MaxConnections: 4, MaxPerUser: 2, ReleasesPerSecond: 1})
	u, leave := s.enter(1, 0)
	must(t, u.release(s, 0))
	s.forget(Moment(time.Hour))
	if len(s.known) != 1 {
		t.Error("a user with a connection was forgotten")
	}
	must(t, u.release(s, Moment(time.Hour)))
	leave()
	s.forget(Moment(time.Hour))
	if len(s.known) != 1 {
		t.Error("a user who has just asked was forgotten, and may ask anew")
	}
	s.forget(Moment(2 * time.Hour))
	if len(s.known) != 0 || s.conns != 0 {
		t.Errorf("left: %v, %d connections", s.known, s.conns)
	}
}

// TestSocketModeAndOwner looks at the socket as the kernel does.
func TestSocketModeAndOwner(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	a := d.start(m, func(c *Config) { c.Socket.Mode, c.Socket.Group = "0620", fmt.Sprint(os.Getegid()) })
	info, err := os.Lstat(a.cfg.Socket.Path)
	must(t, err)
	if info.Mode()&os.ModeSocket == 0 || info.Mode().Perm() != 0o620 {
		t.Errorf("mode %v", info.Mode())
	}
	names, err := os.ReadDir(a.cfg.Dir)
	must(t, err)
	for _, n := range names {
		if strings.HasPrefix(n.Name(), ".s") {
			t.Errorf("left behind: %s", n.Name())
		}
	}
	cfg := a.cfg
	cfg.Socket.Path = a.cfg.Dir + "/" + ConfigFile
	if _, err := openFront(cfg.Socket, a.now, a.log); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("over a file: %v", err)
	}
	cfg.Socket.Path, cfg.Socket.User = a.cfg.Dir+"/other", "nobody-of-that-name"
	if _, err := openFront(cfg.Socket, a.now, a.log); err == nil || !strings.Contains(err.Error(), "socket.user") {
		t.Errorf("for nobody: %v", err)
	}
}

// TestHeldKeys holds keys by a clock of its own.
func TestHeldKeys(t *testing.T) {
	at := func(d time.Duration) Moment { return Moment(time.Hour).Add(d) }
	of := func(uid uint32) wanted { return wanted{"k", 0, process.Facts{UID: uid}} }
	h := newHeld()
	bytesOf := []byte("secret")
	h.put(of(1), &secret{bytes: bytesOf, hold: time.Minute})
	h.put(of(2), &secret{bytes: []byte("other")})
	if s, left := h.get(at(0), of(1), at(time.Second)); s == nil || left != time.Second {
		t.Error("within the lease")
	}
	if s, _ := h.get(at(0), of(3), at(time.Second)); s != nil {
		t.Error("to another application")
	}
	if s, _ := h.get(at(0), of(1), 0); s != nil {
		t.Error("without a lease")
	}
	h.silence(at(time.Second))
	if s, _ := h.get(at(2*time.Second), of(2), 0); s != nil || len(h.keys) != 1 {
		t.Error("a key that may not be held on")
	}
	if s, left := h.get(at(2*time.Second), of(1), 0); s == nil || left != 59*time.Second {
		t.Errorf("a key that may be held for a minute: %v left", left)
	}
	h.expire(at(time.Minute + time.Second))
	if len(h.keys) != 0 || !bytes.Equal(bytesOf, make([]byte, 6)) {
		t.Error("after the minute it is there still")
	}
	for i := range uint32(maxHeld + 10) {
		h.put(of(i), &secret{})
	}
	if len(h.keys) != maxHeld {
		t.Errorf("%d keys are held", len(h.keys))
	}
	h.clear()
	if len(h.keys) != 0 || h.until != 0 {
		t.Error("not cleared")
	}
}
