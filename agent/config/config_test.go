package config

import (
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/modbus"
)

const example = `gateway: gw-0017
state: /var/lib/homeward
home:
  cloud: mqtt
  organization: acme
  project: cold-chain
  product: gateway-v2
  url: tls://broker.example.net:8883
  username: gw-0017
  password_file: /etc/homeward/password
  ca_file: /etc/homeward/ca.pem
  prefix: homeward
  client_id: gw-0017-1
sensors:
  - name: boiler
    driver: modbus
    port: /dev/serial/by-path/platform-3f980000.usb-usb-0:1.3:1.0-port0
    line: 19200-8E1
    unit_id: 1
    every: 10s
    timeout: 500ms
    channels:
      - {name: flow, register: holding, address: 0, type: int16, scale: 0.1, unit: Cel}
      - {name: energy, register: input, address: 16, type: uint32, order: big, scale: 0.001, unit: kWh}
publish:
  format: rows
  max_bytes: 1024
  max_age: 5m
  alarms:
    - {channel: boiler/flow, above: 2.9}
operations:
  per_month: 7200
  billing_day: 1
  reserve: 10%
  at_limit: hold
buffer: {max_bytes: 512MB, keep_free: 256MB, flush: 1s, when_full: drop-oldest}
fleet: {repository: https://fleet.example.net/acme, root_file: /etc/homeward/root.json, every: 1h}
update: {window: "02:00-05:00", daily_bytes: 20MB}
status: {listen: 127.0.0.1:8080}
`

func TestExample(t *testing.T) {
	c, err := Parse("homeward.yaml", []byte(example), []drivers.Factory{modbus.Factory})
	require.NoError(t, err)
	require.Equal(t, "gw-0017", c.Gateway)
	require.Len(t, c.Sensors[0].Channels, 2)
	require.Equal(t, Size(512e6), c.Buffer.MaxBytes)
	require.InDelta(t, 0.1, float64(c.Operations.Reserve), 1e-9)
	require.Len(t, c.Warnings, 4)
}
