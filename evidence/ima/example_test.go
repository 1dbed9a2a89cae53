package ima_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/ima"
)

// The list comes with a bundle; tpm2.Quote.CheckPCRs returns the register values
// that the quote covers. Here both are made of one entry.
func ExampleOpen() {
	file := sha256.Sum256([]byte("content"))
	var data []byte // template data of ima-ng: two fields, each after its length
	for _, field := range [][]byte{append([]byte("sha256:\x00"), file[:]...), []byte("/usr/bin/true\x00")} {
		data = append(binary.LittleEndian.AppendUint32(data, uint32(len(field))), field...)
	}
	hash := sha1.Sum(data)
	var raw bytes.Buffer
	for _, part := range []any{uint32(ima.Register), hash, uint32(6), []byte("ima-ng"), uint32(len(data)), data} {
		binary.Write(&raw, binary.LittleEndian, part)
	}
	quoted := evidence.PCRs{Bank: evidence.SHA256}
	digest := sha256.Sum256(data)
	quoted.Extend(ima.Register, digest[:])

	list, err := ima.Open(raw.Bytes(), []evidence.PCRs{quoted}, ima.Register)
	if err != nil {
		fmt.Println(err)
		return
	}
	for n, e := range list.All() {
		fmt.Printf("%d %v %s:%x\n", n, e.Path, e.Alg, e.FileDigest[:4])
	}
	// Output: 1 /usr/bin/true sha256:ed7002b4
}
