package swtpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// patience bounds the start and the end of a process, on a machine that is busy.
const patience = time.Minute

// TPM is a software TPM of its own process. Its methods are not for concurrent use.
type TPM struct {
	Socket string // path of the Unix socket that takes TPM commands

	dir    string // state, sockets and log; short enough for a socket's path
	cmd    *exec.Cmd
	exited chan error // holds the process's end once it came
}

// Start manufactures a TPM 2.0 and starts it: banks sha256 and sha384, an RSA-2048
// and an ECC P-384 endorsement key with certificates by ca. The caller stops it.
func (ca *CA) Start(ctx context.Context) (*TPM, error) {
	dir, err := os.MkdirTemp("", "swtpm-")
	if err != nil {
		return nil, err
	}
	t := &TPM{Socket: filepath.Join(dir, "tpm"), dir: dir}
	if err := ca.Manufacture(ctx, dir); err != nil {
		return nil, errors.Join(err, t.Stop())
	}
	if err := t.boot(ctx, startClear); err != nil {
		return nil, errors.Join(err, t.Stop())
	}
	return t, nil
}

// Manufacture makes the state of a TPM in dir, as Start does, for whoever runs it: an
// emulated machine, for one.
func (ca *CA) Manufacture(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "swtpm_setup", "--tpm2", "--tpmstate", dir, "--config", ca.path("setup.conf"),
		"--create-ek-cert", "--lock-nvram", "--pcr-banks", "sha256,sha384")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("swtpm_setup: %w\n%s", err, out)
	}
	return nil
}

// How TPM2_Startup is given (TPM 2.0 Part 3, 9.3), as swtpm's flags.
const (
	startClear = "startup-clear"
	startState = "startup-state"
)

// boot starts the process and returns when it takes connections.
func (t *TPM) boot(ctx context.Context, startup string) error {
	log := filepath.Join(t.dir, "log")
	t.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+t.dir,
		"--server", "type=unixio,path="+t.Socket, "--ctrl", "type=unixio,path="+filepath.Join(t.dir, "ctrl"),
		"--flags", "not-need-init,"+startup, "--log", "file="+log+",level=1,truncate")
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // never outlives its owner
	if err := t.cmd.Start(); err != nil {
		t.cmd = nil
		return err
	}
	t.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(t.cmd, t.exited)

	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("unix", t.Socket); err == nil {
			return conn.Close()
		}
		select {
		case err := <-t.exited:
			t.cmd = nil
			out, _ := os.ReadFile(log)
			return fmt.Errorf("swtpm ended at its start: %v\n%s", err, out)
		case <-ctx.Done():
			return fmt.Errorf("swtpm takes no connections: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// Restart is a reboot of the machine that the TPM sits in: an orderly
// TPM2_Shutdown, power off, power on, TPM2_Startup(CLEAR). PCRs start anew and the
// reset count grows (TPM Reset).
func (t *TPM) Restart(ctx context.Context) error {
	return t.again(ctx, t.shutdown(ctx, shutdownClear), startClear)
}

// Crash is a reboot without an orderly end: PCRs start anew, the reset count grows, and
// the clock may be behind what the TPM said before, which it says (safe is NO).
func (t *TPM) Crash(ctx context.Context) error { return t.again(ctx, nil, startClear) }

// Suspend is a machine's sleep: TPM2_Shutdown(STATE), power off, power on,
// TPM2_Startup(STATE). PCRs are kept and the restart count grows (TPM Resume).
func (t *TPM) Suspend(ctx context.Context) error {
	return t.again(ctx, t.shutdown(ctx, shutdownState), startState)
}

// Hibernate is a boot from a state that was saved: TPM2_Shutdown(STATE), power off, power
// on, TPM2_Startup(CLEAR). PCRs start anew, and yet only the restart count grows (TPM
// Restart).
func (t *TPM) Hibernate(ctx context.Context) error {
	return t.again(ctx, t.shutdown(ctx, shutdownState), startClear)
}

// again ends the process, unless what came before failed, and starts it.
func (t *TPM) again(ctx context.Context, err error, startup string) error {
	if err == nil {
		err = t.kill()
	}
	if err == nil {
		err = t.boot(ctx, startup)
	}
	return err
}

// Clear is TPM2_Clear by the platform (Part 3, 24.6): what the owner had is gone, and
// counts and clock begin at 0. PCRs are kept.
func (t *TPM) Clear(ctx context.Context) error {
	return t.command(ctx, "TPM2_Clear", []byte{0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x26, // tag, size, command
		0x40, 0, 0, 0x0C, // TPM_RH_PLATFORM
		0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0}) // its empty password (TPM_RS_PW)
}

// SetClock is TPM2_ClockSet by the platform (Part 3, 29.2): the clock goes on from there,
// which is not before now, in milliseconds.
func (t *TPM) SetClock(ctx context.Context, ms uint64) error {
	command := []byte{0x80, 0x02, 0, 0, 0, 35, 0, 0, 0x01, 0x28, 0x40, 0, 0, 0x0C, 0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0}
	return t.command(ctx, "TPM2_ClockSet", binary.BigEndian.AppendUint64(command, ms))
}

// Snapshot puts the machine to sleep, copies the TPM's state, and wakes it.
func (t *TPM) Snapshot(ctx context.Context) (state []byte, err error) {
	if err = t.shutdown(ctx, shutdownState); err == nil {
		err = t.kill()
	}
	if err == nil {
		state, err = os.ReadFile(t.state())
	}
	return state, t.again(ctx, err, startState)
}

// Restore goes back to a snapshot, as the owner of a virtual machine can: the TPM knows
// nothing of what came after.
func (t *TPM) Restore(ctx context.Context, snapshot []byte) error {
	err := t.kill()
	if err == nil {
		err = os.WriteFile(t.state(), snapshot, 0o600)
	}
	return t.again(ctx, err, startState)
}

// state is where swtpm keeps what outlasts it.
func (t *TPM) state() string { return filepath.Join(t.dir, "tpm2-00.permall") }

// Kinds of TPM2_Shutdown.
const (
	shutdownClear = 0
	shutdownState = 1
)

// shutdown sends TPM2_Shutdown (TPM 2.0 Part 3, 9.4).
func (t *TPM) shutdown(ctx context.Context, kind byte) error {
	return t.command(ctx, "TPM2_Shutdown", []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, kind})
}

// command sends a command that answers with its return code alone.
func (t *TPM) command(ctx context.Context, name string, command []byte) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", t.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if _, err := conn.Write(command); err != nil {
		return err
	}
	var rsp [10]byte // tag, size, return code
	if _, err := conn.Read(rsp[:]); err != nil {
		return err
	}
	if [4]byte(rsp[6:]) != [4]byte{} {
		return fmt.Errorf("%s: return code %x", name, rsp[6:])
	}
	return nil
}

// kill ends the process and reaps it. The TPM's state is on disk after each command.
func (t *TPM) kill() error {
	if t.cmd == nil {
		return nil
	}
	if err := t.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-t.exited
	t.cmd = nil
	return errors.Join(remove(t.Socket), remove(filepath.Join(t.dir, "ctrl")))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Stop ends the process and removes everything of it. It may be called twice.
func (t *TPM) Stop() error {
	return errors.Join(t.kill(), os.RemoveAll(t.dir))
}
