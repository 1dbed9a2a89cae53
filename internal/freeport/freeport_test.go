package freeport

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// childEnv makes the test program claim blocks and say which.
const childEnv = "KEYSTEAD_TEST_CLAIM"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	for range 3 {
		base, err := Block()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(base)
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // holds them until it is told
}

// TestNobodyElseIsGivenThem has processes claim blocks at once.
func TestNobodyElseIsGivenThem(t *testing.T) {
	seen := map[int]bool{}
	take := func(base int) {
		if seen[base] {
			t.Errorf("block %d was given twice", base)
		}
		seen[base] = true
	}
	port, err := Next()
	if err != nil {
		t.Fatal(err)
	}
	take(port)
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"=1")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer in.Close()
		said := make([]byte, 0, 64)
		for strings.Count(string(said), "\n") < 3 {
			n, err := out.Read(said[len(said):cap(said)])
			if err != nil {
				t.Fatal(err)
			}
			said = said[:len(said)+n]
		}
		for _, line := range strings.Fields(string(said)) {
			base, err := strconv.Atoi(line)
			if err != nil {
				t.Fatal(err)
			}
			take(base)
		}
	}
}

// TestTakenPortsArePassedOver holds a port of the block that would come next.
func TestTakenPortsArePassedOver(t *testing.T) {
	base, err := Block()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+Size-1))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if free(base) {
		t.Error("a block with a port in use counts as free")
	}
	next, err := Next()
	if err != nil || next >= base && next < base+Size {
		t.Errorf("port %d of block %d was given twice, or %v", next, base, err)
	}
}
