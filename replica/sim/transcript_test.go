package sim_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/replica/sim"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata print into them")

// TestTranscripts runs the scripts in testdata. A script is text; lines that begin
// with "> " are commands, and the lines with "| " after one are what it printed.
// With -rewrite they are written anew.
//
//	> group 3 [trust-disks]      start founders n1, n2, …
//	> run until leader           let time pass; also: until member HOST voter, until same
//	> run for 2s
//	> put HOST KEY VALUE         through the log; get HOST KEY reads linearizably
//	> crash|shutdown|restart|isolate|fill|stall HOST
//	> keep HOST                  a copy of the disk as it is
//	> rollback HOST              crash, and restart on that copy
//	> heal
//	> add HOST by HOST           a new member; remove HOST by HOST
//	> recover HOST yes|no        with the members' leave, or without
//	> members HOST
//
// LEADER stands for the host that leads, FOLLOWER for the first other that runs.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{disks: map[*sim.Host]*vfs.MemFS{}}
			got := s.run(string(src))
			if s.c != nil {
				s.c.Close()
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(src) {
				t.Errorf("%s does not say what happens; run with -rewrite and read the difference. Now:\n%s", file, got)
			}
		})
	}
}

type script struct {
	c     *sim.Cluster
	out   bytes.Buffer // what the present command prints
	disks map[*sim.Host]*vfs.MemFS
	ids   uint64
}

func (s *script) run(src string) string {
	var out strings.Builder
	for line := range strings.Lines(src) {
		if strings.HasPrefix(line, "| ") {
			continue
		}
		out.WriteString(line)
		command, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "> ")
		if !ok {
			continue
		}
		s.out.Reset()
		if err := s.do(strings.Fields(command)); err != nil {
			fmt.Fprintf(&s.out, "error: %v\n", err)
		}
		for l := range strings.Lines(s.out.String()) {
			out.WriteString("| " + l)
		}
	}
	return out.String()
}

func (s *script) host(name string) *sim.Host {
	switch name {
	case "LEADER":
		return s.c.Leader()
	case "FOLLOWER":
		for _, h := range s.c.Hosts() {
			if h.Running() && h != s.c.Leader() {
				return h
			}
		}
	}
	for _, h := range s.c.Hosts() {
		if h.Name == name {
			return h
		}
	}
	return nil
}

func (s *script) do(args []string) error {
	at := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	h := (*sim.Host)(nil)
	if s.c != nil {
		h = s.host(at(1))
	}
	switch at(0) {
	case "group":
		n := int(at(1)[0] - '0')
		c, err := sim.New(sim.Options{Seed: 1, Founders: n, TrustDisks: at(2) == "trust-disks", RetainBytes: 128, Trace: &s.out,
			Machine: func() replica.StateMachine { return &sim.KV{} }, Faults: sim.Faults{MaxDelay: 2 * time.Millisecond, MaxWrite: time.Millisecond}})
		s.c = c
		return err
	case "run":
		return s.pass(args[1:])
	case "put":
		return s.put(h, at(2), at(3))
	case "get":
		return s.get(h, at(2))
	case "crash":
		h.Crash()
	case "shutdown":
		return h.Shutdown()
	case "restart":
		return h.Restart()
	case "isolate":
		s.c.Isolate(h)
	case "heal":
		s.c.Heal()
	case "fill":
		h.FillDisk()
	case "stall":
		h.Pause(2 * time.Second)
	case "keep":
		s.disks[h] = h.Disk()
	case "rollback":
		h.RollBack(s.disks[h])
		return h.Restart()
	case "add":
		fresh := s.c.AddHost()
		return s.change(s.host(at(3)), replica.Change{Add: []replica.Member{{Key: fresh.Key, Address: fresh.Name, Voter: true}}}, func() error { return fresh.Restart() })
	case "remove":
		by := s.host(at(3))
		m, _ := by.Store().Membership().ByKey(h.Key)
		return s.change(by, replica.Change{Remove: []uint64{m.ID}}, nil)
	case "recover":
		return h.Recover(func(p replica.RecoveryPlan) error {
			fmt.Fprintf(&s.out, "the members are asked: %s alone as id %d, its log up to %d of term %d\n", h.Name, p.ID, p.Last, p.Term)
			if at(2) == "yes" {
				return nil
			}
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoteUnsigned, Want: "k members' signatures", Got: "none", Where: "recovery"})
		})
	case "members":
		m := h.Store().Membership()
		for _, x := range m.Members {
			fmt.Fprintf(&s.out, "id %d is %s\n", x.ID, x.Address)
		}
		fmt.Fprintf(&s.out, "voters %v, learners %v\n", m.Voters(), m.Learners())
	default:
		return fmt.Errorf("no command %q", at(0))
	}
	return s.c.Err()
}

func (s *script) pass(args []string) error {
	limit, until := 30*time.Second, func() bool { return false }
	switch {
	case args[0] == "for":
		d, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		s.c.Run(d, nil)
		return s.c.Err()
	case args[1] == "leader":
		until = func() bool {
			l := s.c.Leader()
			return l != nil && l.Status().Leader == l.Status().ID
		}
	case args[1] == "member":
		until = func() bool {
			l := s.c.Leader()
			if l == nil {
				return false
			}
			h := s.host(args[2])
			m, ok := l.Status().Members.ByKey(h.Key)
			ok = ok && h.Running() && h.Status().ID == m.ID
			for _, id := range l.Status().Members.Voters() {
				if ok && id == m.ID && !l.Status().Members.Joint() {
					return true
				}
			}
			return false
		}
	case args[1] == "same":
		until = func() bool {
			var applied []uint64
			for _, h := range s.c.Hosts() {
				if h.Running() {
					applied = append(applied, h.Status().Applied)
				}
			}
			for _, a := range applied {
				if a != applied[0] {
					return false
				}
			}
			return len(applied) > 1
		}
	}
	if !s.c.Run(limit, until) {
		return errors.Join(fmt.Errorf("not within %v", limit), s.c.Err())
	}
	return nil
}

func (s *script) wait(done *bool) error {
	s.c.Run(30*time.Second, func() bool { return *done })
	return s.c.Err()
}

func (s *script) put(h *sim.Host, key, value string) error {
	s.ids++
	done := false
	h.Propose(sim.Command{ID: s.ids, Op: sim.Put, Key: key, New: value}.Encode(), func(result []byte, err error) {
		done = true
		s.say("%s acknowledges %s=%s", h.Name, key, value)(err)
	})
	return s.wait(&done)
}

func (s *script) say(format string, args ...any) func(error) {
	return func(err error) {
		if err != nil {
			s.c.Trace("%v", err)
			return
		}
		s.c.Trace(format, args...)
	}
}

func (s *script) get(h *sim.Host, key string) error {
	done := false
	h.Read(func(err error) {
		done = true
		var v string
		if err == nil {
			err = h.Store().View(func(view replica.View) (err error) { v, err = sim.Value(view, key); return })
		}
		s.say("%s reads %s=%s", h.Name, key, v)(err)
	})
	return s.wait(&done)
}

func (s *script) change(by *sim.Host, c replica.Change, then func() error) error {
	done := false
	var failed error
	by.Change(c, func(err error) {
		done = true
		s.say("the change is applied by %s", by.Name)(err)
		if err == nil && then != nil {
			s.c.After(0, func() { failed = then() })
		}
	})
	return errors.Join(s.wait(&done), failed)
}
