package agent

import (
	"context"
	"crypto/rand"
	"net"
	"os"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/collect"
	running "github.com/keystead/keystead/collect/process"
	"github.com/keystead/keystead/collect/process/h2ping"
	"github.com/keystead/keystead/evidence/process"
	"github.com/keystead/keystead/internal/refusal"
)

// challengeLife is how long a challenge is good for.
const challengeLife = 30 * time.Second

// A visitor is a connection to the local socket, with who made it.
type visitor struct {
	net.Conn
	peer *collect.Peer
	err  error // why there is no peer

	asked   *h2ping.Conn  // around this connection
	process *running.Conn // nil where it can not be told who sends
	unknown error         // why
	sealed  *os.File      // the copy that it was launched from, on the socket that it was started with
	front   *front
	user    *user
	gone    func()
	once    sync.Once

	mu     sync.Mutex
	last   *challenge
	copied *os.File // the sealed copy of what is to be launched
}

// challenge is what the next report has to answer.
type challenge struct {
	bytes   [process.ChallengeSize]byte
	given   Moment
	program collect.Program // that the process ran then

	// answer answers the report of a signed program; nil of one that is not signed.
	answer func(ctx context.Context, report []byte) (*apiv1.ReleaseKeyResponse, error)
}

// askable returns the connection as a server has it.
func (v *visitor) askable() net.Conn {
	v.asked = h2ping.Wrap(v)
	return v.asked
}

// Read implements net.Conn.
func (v *visitor) Read(b []byte) (int, error) {
	if v.process != nil {
		return v.process.Receive(b)
	}
	return v.Conn.Read(b)
}

// Close implements net.Conn.
func (v *visitor) Close() error {
	err := v.Conn.Close()
	v.once.Do(func() {
		if v.peer != nil {
			_ = v.peer.Close() // nothing was written
		}
		if v.process != nil {
			_ = v.process.Close()
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.copied != nil {
			_ = v.copied.Close()
		}
		v.gone()
	})
	return err
}

// challenge makes the challenge for the next report; the one before is void.
func (v *visitor) challenge(ctx context.Context, now Moment) ([process.ChallengeSize]byte, error) {
	if v.err != nil {
		return [process.ChallengeSize]byte{}, v.err
	}
	program, err := measure(ctx, v.user, v.peer.Program)
	if err != nil {
		return [process.ChallengeSize]byte{}, err
	}
	c := &challenge{given: now, program: program}
	_, _ = rand.Read(c.bytes[:]) // never fails
	return v.give(c), nil
}

// give makes a challenge the one that the next report has to answer.
func (v *visitor) give(c *challenge) [process.ChallengeSize]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last = c
	return c.bytes
}

// signed reports whether the process runs a program that carries an application's signature.
func (v *visitor) signed(ctx context.Context) (bool, error) {
	if v.err != nil || v.launchedFrom() != nil {
		return true, v.err
	}
	return measure(ctx, v.user, v.peer.Signed)
}

// measurable reports whether this kernel lets processes be measured. A process that is not for
// another reason, such as a namespace of its own, is refused for it where it runs a signed program.
func (v *visitor) measurable() bool { return v.process != nil || refusal.Deny(v.unknown) != nil }

// launchedFrom is the copy that the process was launched from; nil of one that was not. The agent
// may learn of it after the process connected.
func (v *visitor) launchedFrom() *os.File {
	if v.sealed == nil && v.process != nil {
		return v.front.copyOf(v.process.Inode())
	}
	return v.sealed
}

// Look implements part.Visitor.
func (v *visitor) Look(ctx context.Context) (*part.Look, error) {
	if v.process == nil {
		return nil, v.unknown
	}
	l, err := look(ctx, v.user, v.process.Process, v.launchedFrom())
	if err != nil {
		return nil, err
	}
	again := l.Again
	l.Again = func(ctx context.Context) error {
		if err := again(ctx); err != nil {
			return err
		}
		return v.process.Foreign()
	}
	return l, v.process.Foreign()
}

// look measures a process, at level launched if it is to run a sealed copy.
func look(ctx context.Context, u *user, p *running.Process, sealed *os.File) (*part.Look, error) {
	m, err := measure(ctx, u, func() (*running.Measurement, error) { return p.Measure(ctx, running.Options{Sealed: sealed}) })
	if err != nil {
		return nil, err
	}
	level := process.Measured
	if sealed != nil {
		level = process.Launched
	}
	l := &part.Look{Level: level, Note: m.Program.Note, Program: m.Measured, Mappings: m.Mappings, Coverage: m.Coverage, UID: m.UID, Inode: p.Inode(), Path: m.Path}
	l.Again = func(ctx context.Context) error {
		_, err := measure(ctx, u, func() (struct{}, error) { return struct{}{}, m.Again() })
		return err
	}
	return l, nil
}

// take returns the challenge that a report has to answer, once.
func (v *visitor) take(now Moment) (challenge, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.last
	v.last = nil
	switch {
	case v.err != nil:
		return challenge{}, v.err
	case c == nil:
		return challenge{}, replayed("an answer to this connection's challenge", "a report without one")
	case now.Sub(c.given) > challengeLife:
		return challenge{}, replayed("an answer within "+challengeLife.String(), "one after "+now.Sub(c.given).Truncate(time.Second).String())
	}
	return *c, nil
}

func replayed(want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonReportReplayed, Where: "application's report", Want: want, Got: got})
}

// facts measures the process, which must be what it was at the challenge.
func (v *visitor) facts(ctx context.Context, c challenge) (process.Facts, error) {
	return measure(ctx, v.user, func() (process.Facts, error) { return v.peer.Measure(ctx, c.program) })
}

// User implements part.Visitor.
func (v *visitor) User() uint32 { return v.user.uid }

// Measure implements part.Visitor.
func (v *visitor) Measure(ctx context.Context) (process.Facts, error) {
	if v.peer == nil {
		return process.Facts{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonProcessChanged, Where: "launched program", Want: "a program known by its path", Got: "one that runs a sealed copy"})
	}
	program, err := measure(ctx, v.user, v.peer.Program)
	if err != nil {
		return process.Facts{}, err
	}
	return v.facts(ctx, challenge{program: program})
}

// unchanged checks once more that the process is there and what it was.
func (v *visitor) unchanged(ctx context.Context, c challenge) error {
	_, err := measure(ctx, v.user, func() (struct{}, error) { return struct{}{}, v.peer.Unchanged(c.program) })
	return err
}

// measure runs what reads a process's files. Their file system may be the user's own,
// and let a read take any time: then the context ends the wait, and the user, nobody
// else, has one measurement less until the read ends.
func measure[T any](ctx context.Context, u *user, read func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	var none T
	select {
	case u.slots <- struct{}{}:
	case <-ctx.Done():
		return none, overloaded("measurements of user's processes under way", "fewer than "+maxMeasurements)
	}
	done := make(chan outcome, 1)
	go func() {
		defer func() { <-u.slots }()
		v, err := read()
		done <- outcome{v, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		return none, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Where: "executable of the process", Want: "to be read in time", Got: ctx.Err().Error()})
	}
}

// presentTime is how long a client may take to answer a PING.
const presentTime = 5 * time.Second

// Present implements part.Visitor.
func (v *visitor) Present(ctx context.Context) error {
	if v.process == nil {
		return v.unknown
	}
	ctx, cancel := context.WithTimeout(ctx, presentTime)
	defer cancel()
	err := v.asked.Ping(ctx)
	if foreign := v.process.Foreign(); foreign != nil {
		return foreign
	}
	if err != nil {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonSenderForeign, Where: "connection", Want: "an answer to a PING by the process that connected", Got: err.Error()})
	}
	return v.process.Alive()
}
