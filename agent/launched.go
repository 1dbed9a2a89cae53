package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/agent/part"
	running "github.com/keystead/keystead/collect/process"
)

// Bounds of launched programs.
const (
	launchDescriptors = 3  // sealed copy, pidfd, socket: of one visitor of root
	maxLaunched       = 64 // at once
)

// launched is a process that runs a sealed copy.
type launched struct {
	process *running.Process
	sealed  *os.File
}

func (l *launched) close() {
	_ = l.process.Close()
	_ = l.sealed.Close()
}

// copyOf returns the copy that a process was launched from; nil of one that was not.
func (f *front) copyOf(inode uint64) *os.File {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.launched[inode]; l != nil {
		return l.sealed
	}
	return nil
}

// forget lets go of launched programs that have ended, or of all.
func (f *front) forget(all bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for inode, l := range f.launched {
		if all || l.process.Alive() != nil {
			l.close()
			delete(f.launched, inode)
		}
	}
}

func unsealed(want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonLaunchUnsealed, Where: "launch", Want: want, Got: got})
}

// Launching implements part.Visitor.
func (v *visitor) Launching(ctx context.Context) (out part.Launching, err error) {
	if v.process == nil {
		return out, v.unknown
	}
	if _, err = measure(ctx, v.user, func() (struct{}, error) { return struct{}{}, v.process.Launches() }); err == nil {
		err = v.process.Foreign()
	}
	if err != nil {
		return out, err
	}
	sealed, err := v.sealedCopy()
	if err != nil {
		return out, err
	}
	if _, err = measure(ctx, v.user, func() (_ struct{}, err error) { out.Note, out.Program, err = running.ReadSealed(sealed); return }); err != nil {
		return part.Launching{}, err
	}
	out.Adopt = func(ctx context.Context, socket bool, check func(*part.Look) error) (func() error, error) {
		return v.adopt(ctx, sealed, socket, check)
	}
	return out, nil
}

// sealedCopy is the first descriptor that came on the connection.
func (v *visitor) sealedCopy() (*os.File, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.copied != nil {
		return v.copied, nil
	}
	came := v.process.Descriptors()
	if len(came) == 0 {
		return nil, unsealed("a sealed copy of a program, as a descriptor", "none")
	}
	for _, f := range came[1:] {
		_ = f.Close()
	}
	v.copied = came[0]
	return v.copied, nil
}

// adopt takes the process of a pidfd that came, and serves the socket that came with it.
func (v *visitor) adopt(ctx context.Context, sealed *os.File, socket bool, check func(*part.Look) error) (func() error, error) {
	came := v.process.Descriptors()
	defer func() {
		for _, f := range came {
			_ = f.Close()
		}
	}()
	if want := 1 + map[bool]int{true: 1}[socket]; len(came) != want {
		return nil, unsealed(fmt.Sprintf("%d descriptors: the process, and its socket", want), fmt.Sprint(len(came)))
	}
	twin, err := running.Twin(came[0])
	if err != nil {
		return nil, err
	}
	p, err := running.Open(twin)
	if err != nil {
		return nil, err
	}
	l := &launched{process: p}
	if l.sealed, err = running.Twin(sealed); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := v.admits(ctx, l, check); err != nil {
		l.close()
		return nil, err
	}
	if !socket {
		return p.Alive, nil
	}
	return p.Alive, v.front.serveLaunched(l, came[0], came[1])
}

// admits looks at a launched process, and has it known by its inode if the check passes.
func (v *visitor) admits(ctx context.Context, l *launched, check func(*part.Look) error) error {
	found, err := look(ctx, v.user, l.process, l.sealed)
	if err == nil {
		err = check(found)
	}
	if err != nil {
		return err
	}
	if found.UID == 0 {
		return unsealed("a program with a user of its own", "one that runs as root")
	}
	v.front.mu.Lock()
	defer v.front.mu.Unlock()
	if len(v.front.launched) >= maxLaunched {
		return overloaded("launched programs", fmt.Sprintf("at most %d", maxLaunched))
	}
	if v.front.launched[l.process.Inode()] == nil { // its connections use the copy that is there
		v.front.launched[l.process.Inode()] = l
	}
	return nil
}

// serveLaunched answers a launched program on the socket that it was started with.
func (f *front) serveLaunched(l *launched, pidfd, socket *os.File) error {
	conn, err := net.FileConn(socket)
	if err != nil {
		return unsealed("a socket", err.Error())
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.Join(unsealed("a Unix socket", conn.LocalAddr().Network()), conn.Close())
	}
	twin, err := running.Twin(pidfd)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	v := &visitor{Conn: unix, front: f, sealed: l.sealed, unknown: unsealed("a launched program", "none")}
	if v.process, err = running.Launched(unix, twin); err != nil {
		return errors.Join(err, conn.Close())
	}
	uid, err := v.process.User()
	if err == nil {
		if v.user, v.gone = f.users.enter(uid, f.now()); v.user == nil {
			err = overloaded("connections", "fewer")
		}
	}
	if err != nil {
		return errors.Join(err, v.process.Close(), conn.Close())
	}
	go func() { _ = f.steady.Serve(&once{conn: v.askable()}) }() // ends at once: the connection is served beside
	return nil
}

// once is a listener that has one connection.
type once struct{ conn net.Conn }

// Accept implements net.Listener.
func (o *once) Accept() (net.Conn, error) {
	if o.conn == nil {
		return nil, net.ErrClosed
	}
	c := o.conn
	o.conn = nil
	return c, nil
}

// Close implements net.Listener.
func (o *once) Close() error { return nil }

// Addr implements net.Listener.
func (o *once) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }
