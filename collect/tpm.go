package collect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// devices are tried in this order: the kernel's resource manager shares the TPM.
var devices = []string{"/dev/tpmrm0", "/dev/tpm0"}

// TPM is an open TPM 2.0. Nothing is stored in it: keys are primary keys, made
// anew from the TPM's own seed for each call and flushed at its end. Calls are
// safe for concurrent use and take turns.
type TPM struct {
	path   string
	device transport.TPMCloser // nil for a socket, which is dialled anew for each command
	turn   chan struct{}       // holds a token while nobody uses the TPM
	ek     *ekProfile          // the endorsement key that EK chose
}

// OpenTPM opens the TPM at path: a character device, or the Unix socket of a
// software TPM. An empty path means the machine's own.
func OpenTPM(path string) (*TPM, error) {
	if path != "" {
		return openTPM(path)
	}
	for _, d := range devices {
		if _, err := os.Stat(d); err == nil {
			return openTPM(d)
		}
	}
	return nil, &Error{Found: fmt.Sprintf("no TPM: neither %s nor %s exists", devices[0], devices[1]),
		Hint: "enable the TPM in the firmware's setup (PTT, fTPM, vTPM), or name the socket of a software TPM"}
}

func openTPM(path string) (*TPM, error) {
	info, err := os.Stat(path)
	t := &TPM{path: path, turn: make(chan struct{}, 1)}
	t.turn <- struct{}{}
	switch {
	case err != nil:
	case info.Mode()&fs.ModeSocket != 0:
		return t, nil
	default:
		if t.device, err = linuxtpm.Open(path); err == nil {
			return t, nil
		}
	}
	return nil, openError(path, err)
}

func openError(path string, err error) *Error {
	e := &Error{Found: "TPM " + path + " can not be opened", Err: err}
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "run as root, or add the user to the group that owns the device (tss on Debian)"
	case errors.Is(err, fs.ErrNotExist):
		e.Hint = "name a TPM device such as /dev/tpmrm0, or the socket of a software TPM"
	case errors.Is(err, linuxtpm.ErrFileIsNotDevice):
		e.Hint = "name a character device or a Unix socket"
	default:
		e.Hint = "another program may hold the device: use /dev/tpmrm0, which shares it"
	}
	return e
}

// Path returns where the TPM is.
func (t *TPM) Path() string { return t.path }

// Socket reports whether the TPM is a software TPM behind a Unix socket.
func (t *TPM) Socket() bool { return t.device == nil }

// Close closes the TPM after the call in progress.
func (t *TPM) Close() error {
	<-t.turn
	defer func() { t.turn <- struct{}{} }()
	if t.device == nil {
		return nil
	}
	return t.device.Close()
}

// link is a TPM for the length of one call, within its context. It is a transport
// of go-tpm.
type link struct {
	ctx context.Context
	tpm *TPM
}

// with waits for its turn and runs f. What f says of the TPM is explained.
func (t *TPM) with(ctx context.Context, f func(link) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.turn:
	}
	defer func() { t.turn <- struct{}{} }()
	return t.explain(f(link{ctx, t}))
}

// Send runs one command. A socket obeys the context at once, a device between
// commands.
func (l link) Send(command []byte) ([]byte, error) {
	if err := l.ctx.Err(); err != nil {
		return nil, err
	}
	if l.tpm.device != nil {
		return l.tpm.device.Send(command)
	}
	conn, err := new(net.Dialer).DialContext(l.ctx, "unix", l.tpm.path)
	if err != nil {
		return nil, &Error{Found: "software TPM " + l.tpm.path + " does not answer", Err: err,
			Hint: "start swtpm with --server type=unixio,path=" + l.tpm.path}
	}
	defer conn.Close()
	defer context.AfterFunc(l.ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	rsp, err := transport.FromReadWriter(conn).Send(command)
	if err != nil && l.ctx.Err() != nil {
		err = l.ctx.Err()
	}
	return rsp, err
}

// flushPatience bounds a flush after the context of its call ended.
const flushPatience = 5 * time.Second

// flush removes a key or session from the TPM, even when the context is over, and
// adds its own failure to err.
func (l link) flush(handle tpm2.TPMHandle, err *error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), flushPatience)
	defer cancel()
	_, e := tpm2.FlushContext{FlushHandle: handle}.Execute(link{ctx, l.tpm})
	*err = errors.Join(*err, e)
}

// primary makes a key in the endorsement hierarchy. The caller flushes it.
func (l link) primary(template tpm2.TPMTPublic) (*tpm2.CreatePrimaryResponse, error) {
	return tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(l)
}

// explain turns what a TPM answers into words for a person.
func (t *TPM) explain(err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	for _, known := range []struct {
		code        tpm2.TPMRC
		found, hint string
	}{
		{tpm2.TPMRCLockout, "the TPM is locked after failed authorisations", "wait for its lockout interval to pass, or clear it with tpm2_dictionarylockout --clear-lockout"},
		{tpm2.TPMRCBadAuth, "the endorsement hierarchy has a password", "remove it with tpm2_changeauth -c endorsement -p OLD"},
		{tpm2.TPMRCAuthFail, "the endorsement hierarchy has a password", "remove it with tpm2_changeauth -c endorsement -p OLD"},
		{tpm2.TPMRCHierarchy, "the endorsement hierarchy is disabled", "enable it in the firmware's setup"},
		{tpm2.TPMRCInitialize, "the TPM was not started up", "start swtpm with --flags not-need-init,startup-clear; on a machine, the firmware should have done it"},
		{tpm2.TPMRCObjectMemory, "the TPM has no room for another key", "use /dev/tpmrm0, or flush what others left with tpm2_flushcontext --transient-object"},
		{tpm2.TPMRCSessionMemory, "the TPM has no room for another session", "use /dev/tpmrm0, or flush what others left with tpm2_flushcontext --loaded-session"},
	} {
		if errors.Is(err, known.code) {
			return &Error{Found: "TPM " + t.path + ": " + known.found, Hint: known.hint, Err: err}
		}
	}
	return fmt.Errorf("TPM %s: %w", t.path, err)
}
