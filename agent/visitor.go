package agent

import (
	"context"
	"crypto/rand"
	"net"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/collect"
	running "github.com/keystead/keystead/collect/process"
	"github.com/keystead/keystead/evidence/process"
)

// challengeLife is how long a challenge is good for.
const challengeLife = 30 * time.Second

// A visitor is a connection to the local socket, with who made it.
type visitor struct {
	net.Conn
	peer *collect.Peer
	err  error // why there is no peer

	process *running.Conn // nil where it can not be told who sends
	unknown error         // why
	user    *user
	gone    func()
	once    sync.Once

	mu   sync.Mutex
	last *challenge
}

// challenge is what the next report has to answer.
type challenge struct {
	bytes   [process.ChallengeSize]byte
	given   Moment
	program collect.Program // that the process ran then

	// answer answers the report of a signed program; nil of one that is not signed.
	answer func(ctx context.Context, report []byte) (*apiv1.ReleaseKeyResponse, error)
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
	if v.err != nil {
		return false, v.err
	}
	return measure(ctx, v.user, v.peer.Signed)
}

// Look implements part.Visitor.
func (v *visitor) Look(ctx context.Context) (*part.Look, error) {
	if v.process == nil {
		return nil, v.unknown
	}
	m, err := measure(ctx, v.user, func() (*running.Measurement, error) { return v.process.Measure(ctx, running.Options{}) })
	if err == nil {
		err = v.process.Foreign()
	}
	if err != nil {
		return nil, err
	}
	l := &part.Look{Level: process.Measured, Note: m.Program.Note, Program: m.Measured, Mappings: m.Mappings, Coverage: m.Coverage, UID: m.UID, Inode: v.process.Inode(), Path: m.Path}
	l.Again = func(ctx context.Context) error {
		_, err := measure(ctx, v.user, func() (struct{}, error) { return struct{}{}, m.Again() })
		if err == nil {
			err = v.process.Foreign()
		}
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
func (v *visitor) User() uint32 { return v.peer.UID() }

// Measure implements part.Visitor.
func (v *visitor) Measure(ctx context.Context) (process.Facts, error) {
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
