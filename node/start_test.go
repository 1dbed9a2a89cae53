package node_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/node"
)

// TestStartOnAFullDisk starts a node whose disk has less and less room: it runs, or ends
// with a status that is not 0 and says that there is no space. It never hangs.
func TestStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	if !isolated(t) {
		return
	}
	disk := filepath.Join(t.TempDir(), "disk")
	run(t, "mkdir -p %s && mount -t tmpfs -o size=64m,mode=0700 tmpfs %[1]s", disk)
	t.Cleanup(func() { run(t, "umount %s", disk) })
	c := &cluster{t: t, dir: t.TempDir(), file: &client.Domain{}}
	dir := filepath.Join(disk, "n1")
	c.file.Contacts = append(c.file.Contacts, c.prepare("n1", "", dir))
	c.seal()
	c.nodes[0].said = filepath.Join(c.dir, "log") // elsewhere: there is room
	run(t, "cp -a %s %s.kept", dir, dir)
	failed := 0
	for _, was := range []string{"new", "run before"} {
		for _, left := range []int{0, 4, 64, 256, 1024, 4096, 32768} { // KiB
			run(t, "rm -rf %s %s/filler && cp -a %s.kept %s", dir, disk, dir, dir)
			free := 0
			if _, err := fmt.Sscan(lineOf(t, "df --output=avail -k %s | tail -1", disk), &free); err != nil {
				t.Fatal(err)
			}
			if fill := free - left; fill > 0 {
				run(t, "head -c %dK /dev/zero > %s/filler", fill, disk)
			}
			if err := os.Truncate(c.nodes[0].said, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			c.start(0)
			switch err := c.upOrEnded(0); {
			case err == nil:
				if err := c.end(0, syscall.SIGTERM); err != nil && left == 32768 {
					t.Errorf("%s, with %d KiB left: ran, and ended with %v", was, left, err)
				}
			default:
				failed++
				said, _ := os.ReadFile(c.nodes[0].said)
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(string(said), "no space left on device") {
					t.Errorf("%s, with %d KiB left: ended with %v and said\n%s", was, left, err, said)
				}
			}
			c.nodes[0].cmd = nil
		}
		run(t, "rm -rf %s %s/filler && cp -a %s.kept %s", dir, disk, dir, dir)
		c.start(0)
		c.whole(0)
		if err := c.end(0, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		run(t, "rm -rf %s.kept && cp -a %s %s.kept", dir, dir, dir)
	}
	if failed < 2 { // with no room at all, and with next to none, a new node never runs
		t.Errorf("the disk was full for %d starts: does the test fill it?", failed)
	}
}

// upOrEnded waits until a node answers, or has ended with an error, which it returns.
func (c *cluster) upOrEnded(i int) error {
	c.t.Helper()
	cl := c.client(c.nodes[i].place.Name)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-c.nodes[i].ended:
			if err == nil {
				err = errors.New("without an error")
			}
			return err
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := cl.Status(ctx)
		cancel()
		if err == nil {
			return nil
		}
	}
	said, _ := os.ReadFile(c.nodes[i].log())
	c.t.Fatalf("%s neither answers nor ends; it said\n%s", c.nodes[i].place.Name, said)
	return nil
}

// lineOf is what a line of shell says.
func lineOf(t *testing.T, format string, args ...any) string {
	t.Helper()
	b, err := exec.Command("sh", "-c", fmt.Sprintf(format, args...)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestTermEndsAnyStart has what a node opens, one thing after the other, not answer for
// ever. SIGTERM ends it all the same.
func TestTermEndsAnyStart(t *testing.T) {
	for name, hang := range map[string]func(t *testing.T, c *cluster, dir string){
		"its TLS key":      fifo("tls.pem"),
		"the domain file":  fifo("domain.json"),
		"its contact":      fifo("contact"),
		"its signing key":  fifo("node.seed"),
		"the epoch secret": fifo("epoch.unsealed"),
		"the log of raft":  fifo("store/log/0000000000000001.log"),
		"the state":        fifo("store/state-000002/MANIFEST-000001"),
		"the clean record": fifo("shutdown"),
		"a majority":       func(*testing.T, *cluster, string) {},
		"its TPM": func(t *testing.T, c *cluster, dir string) {
			silent := filepath.Join(t.TempDir(), "tpm")
			l, err := net.Listen("unix", silent)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go func() { // takes all, and says nothing
				var open []net.Conn
				for {
					conn, err := l.Accept()
					if err != nil {
						break
					}
					open = append(open, conn)
				}
				for _, conn := range open {
					conn.Close()
				}
			}()
			path := filepath.Join(dir, node.ConfigFile)
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, []byte(string(b)+"\n[tpm]\npath = \""+silent+"\"\n"), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := found(t, 3, loopback)
			if name != "a majority" {
				c = found(t, 1, loopback)
				c.start(0)
				c.whole(0)
				if err := c.end(0, syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			p := c.nodes[0]
			hang(t, c, p.dir)
			c.start(0)
			t.Cleanup(func() {
				if p.cmd != nil {
					_ = p.cmd.Process.Kill()
				}
			})
			select {
			case err := <-p.ended:
				said, _ := os.ReadFile(p.dir + ".log")
				t.Fatalf("it ended by itself: %v\n%s", err, said)
			case <-time.After(2 * time.Second): // it waits for what does not come
			}
			began := time.Now()
			err := c.end(0, syscall.SIGTERM)
			t.Logf("ended after %v with %v", time.Since(began).Round(time.Millisecond), err)
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("ended after %v", took)
			}
		})
	}
}

// fifo puts a pipe that nobody writes to in the place of a file.
func fifo(name string) func(*testing.T, *cluster, string) {
	return func(t *testing.T, _ *cluster, dir string) {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("the node has no such file: %v; it has %s", err, lineOf(t, "cd %s && find . -type f", dir))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
