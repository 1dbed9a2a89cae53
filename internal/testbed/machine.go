package testbed

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// machine is the emulator's command: no hardware virtualisation, and a network by which
// the guest reaches what this machine reaches and nobody reaches the guest.
func machine(ctx context.Context, at func(string) string) *exec.Cmd {
	args := []string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "1024",
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "file:" + at("console"),
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + firmwareCode,
		"-drive", "if=pflash,format=raw,unit=1,file=" + at("vars.fd"),
		"-chardev", "socket,id=tpm,path=" + at("tpm.sock"),
		"-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0",
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-chardev", "socket,id=port,server=on,wait=off,path=" + at("port.sock"),
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=keystead",
	}
	disk := func(serial, drive, device string) {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=%s,format=raw,cache=unsafe,%s", serial, drive),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s%s", serial, serial, device))
	}
	disk("root", "file="+at("root.img"), "")
	disk("esp", "readonly=on,file=fat:"+at("esp"), ",bootindex=0")
	return command(ctx, "qemu-system-x86_64", args...)
}

// await tries, again and again, until that goes well or the program that it depends on
// ends.
func await(ctx context.Context, ended <-chan error, try func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if try() == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("ended before it listened: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
