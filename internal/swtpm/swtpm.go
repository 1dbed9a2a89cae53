package swtpm

import (
	"context"
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
	if err := t.boot(ctx); err != nil {
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

// boot starts the process and returns when it takes connections.
func (t *TPM) boot(ctx context.Context) error {
	log := filepath.Join(t.dir, "log")
	t.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+t.dir,
		"--server", "type=unixio,path="+t.Socket, "--ctrl", "type=unixio,path="+filepath.Join(t.dir, "ctrl"),
		"--flags", "not-need-init,startup-clear", "--log", "file="+log+",level=1,truncate")
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
// reset count grows.
func (t *TPM) Restart(ctx context.Context) error {
	if err := t.shutdown(ctx); err != nil {
		return err
	}
	if err := t.kill(); err != nil {
		return err
	}
	return t.boot(ctx)
}

// shutdown sends TPM2_Shutdown(CLEAR) (TPM 2.0 Part 3, 9.4).
func (t *TPM) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", t.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if _, err := conn.Write([]byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0}); err != nil {
		return err
	}
	var rsp [10]byte // tag, size, return code
	if _, err := conn.Read(rsp[:]); err != nil {
		return err
	}
	if [4]byte(rsp[6:]) != [4]byte{} {
		return fmt.Errorf("TPM2_Shutdown: return code %x", rsp[6:])
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
