//go:build wasip1

// Probe asks the host for all that a contract may ask it for.
package main

import (
	"fmt"
	"time"

	"github.com/keystead/keystead/guest"
)

type signed struct {
	Algorithm               int
	Key, Message, Signature []byte
}

//go:wasmexport verify
func verify() {
	var s signed
	guest.Read(&s)
	good := map[int]func(key, message, signature []byte) bool{1: guest.VerifyEd25519, 2: guest.VerifyP256, 3: guest.VerifySecp256k1}[s.Algorithm]
	guest.Answer(good(s.Key, s.Message, s.Signature))
}

//go:wasmexport recover_key
func recoverKey() {
	var s signed
	guest.Read(&s)
	key, ok := guest.Recover([32]byte(s.Message), [65]byte(s.Signature))
	if !ok {
		guest.Refuse("no key")
	}
	guest.Output(key[:])
}

//go:wasmexport hashes
func hashes() {
	b := guest.Input()
	guest.Output(fmt.Appendf(nil, "%x %x %x", guest.SHA256(b), guest.Keccak256(b), guest.BLAKE2b(b)))
}

//go:wasmexport around
func around() {
	guest.Log("a line")
	fmt.Println("another")
	guest.Output(fmt.Appendf(nil, "%v %v %v %x %v", guest.Who(), guest.Now().Format(time.RFC3339Nano), time.Now().UTC().Format(time.RFC3339Nano), guest.Random(40), map[string]int{"b": 2, "a": 1}))
}

// state writes, deletes and scans through what was there.
//
//go:wasmexport state
func state() {
	guest.Put("b", []byte("new"))
	guest.Put("bb", []byte("put"))
	guest.Delete("c")
	guest.Put("d", nil)
	guest.Put("e", []byte("gone"))
	guest.Delete("e")
	all := ""
	for _, p := range guest.Scan("", "", 100) {
		all += fmt.Sprintf("%s=%s ", p.Key, p.Value)
	}
	for _, p := range guest.Scan("b", "d", 2) {
		all += fmt.Sprintf("%s! ", p.Key)
	}
	_, c := guest.Get("c")
	d, there := guest.Get("d")
	guest.Output(fmt.Appendf(nil, "%s%v %v %d", all, c, there, len(d)))
}

// sleep waits for a time that does not come.
//
//go:wasmexport sleep
func sleep() { time.Sleep(time.Hour) }

//go:wasmexport crash
func crash() { panic("on purpose") }

//go:wasmexport hoard
func hoard() {
	var all [][]byte
	for {
		all = append(all, make([]byte, 1<<20))
		all[len(all)-1][7] = 1
	}
}

func main() {}
