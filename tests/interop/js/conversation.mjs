// One conversation of MQTT.js with a broker, the same in Node and in a browser.
// `mqtt` is MQTT.js; `url` says the transport, `version` the protocol level. Returns what was seen, for the test to
// compare.

const COUNT = 100

function collect(client, count) {
  return new Promise((resolve, reject) => {
    const seen = []
    client.on('error', reject)
    client.on('message', function heard(topic, payload, packet) {
      seen.push([topic, payload.toString(), packet.qos, packet.retain])
      if (seen.length === count) {
        client.off('message', heard)
        resolve(seen)
      }
    })
  })
}

// What only MQTT 5.0 has: properties, reason codes, ids given by the server, a word before the end.
async function more(mqtt, url, name, options, client, result) {
  const nameless = mqtt.connect(url, { ...options, clientId: '', clean: true })
  const greeting = await new Promise((resolve) => nameless.on('connect', resolve))
  result.assigned = greeting.properties.assignedClientIdentifier.length
  await nameless.endAsync()

  const userProperties = { k: ['2', '1'] }
  const said = { contentType: 'text', responseTopic: 'answers', userProperties }
  const correlationData = mqtt.Buffer ? mqtt.Buffer.from([0, 255, 7]) : new Uint8Array([0, 255, 7])
  const arrived = new Promise((resolve) => {
    client.on('message', function heard(topic, payload, packet) {
      if (topic !== `${name}/properties`) return
      client.off('message', heard)
      resolve(packet.properties)
    })
  })
  await client.subscribeAsync(`${name}/properties`, { qos: 1, properties: { subscriptionIdentifier: 5 } })
  await client.publishAsync(`${name}/properties`, 'x', { qos: 1, properties: { ...said, correlationData } })
  const found = await arrived
  result.properties = {
    contentType: found.contentType,
    responseTopic: found.responseTopic,
    correlationData: Array.from(found.correlationData).join(),
    userProperties: Object.entries(found.userProperties).flatMap(([k, v]) => [].concat(v).map((each) => [k, each])),
    subscriptionIdentifier: found.subscriptionIdentifier,
  }

  result.removed = []
  for (let n = 0; n < 2; n++) {
    const answer = await new Promise((resolve, reject) => {
      client.unsubscribe(`${name}/properties`, (error, packet) => (error ? reject(error) : resolve(packet)))
    })
    result.removed.push(answer.granted ? answer.granted[0] : answer.reasonCode)
  }

  const twin = { ...options, clientId: `${name}-twin`, clean: true }
  const first = await mqtt.connectAsync(url, twin)
  const ended = new Promise((resolve) => first.on('disconnect', (packet) => resolve(['sent away', packet.reasonCode])))
  const second = await mqtt.connectAsync(url, twin)
  result.refused = await ended
  await second.endAsync()
}

export async function conversation(mqtt, url, name, version) {
  const protocol = version === 3 ? { protocolVersion: 3, protocolId: 'MQIsdp' } : { protocolVersion: version }
  const options = { ...protocol, reconnectPeriod: 0, connectTimeout: 60000 }
  const result = {}

  const client = await mqtt.connectAsync(url, { ...options, clientId: name, clean: true })
  result.granted = (await client.subscribeAsync(`${name}/qos/+`, { qos: 2 })).map((grant) => grant.qos)
  const live = collect(client, 3 * COUNT)
  const sent = []
  for (let n = 0; n < COUNT; n++) {
    for (const qos of [0, 1, 2]) sent.push(client.publishAsync(`${name}/qos/${qos}`, String(n), { qos }))
  }
  await Promise.all(sent)
  result.live = await live

  await client.publishAsync(`${name}/retained`, 'kept', { qos: 1, retain: true })
  const greeting = collect(client, 1)
  await client.subscribeAsync(`${name}/retained`, { qos: 1 })
  result.retained = await greeting
  await client.publishAsync(`${name}/retained`, '', { qos: 1, retain: true })

  const persistent = { ...options, clientId: `${name}-away`, clean: false }
  if (version === 5) persistent.properties = { sessionExpiryInterval: 300 }
  const away = await mqtt.connectAsync(url, persistent)
  await away.subscribeAsync(`${name}/away`, { qos: 2 })
  await away.endAsync()
  for (let n = 0; n < COUNT; n++) await client.publishAsync(`${name}/away`, String(n), { qos: n % 2 ? 1 : 2 })
  // The first messages come right behind CONNACK: listen before it.
  const back = mqtt.connect(url, persistent)
  result.away = await collect(back, COUNT)
  await back.endAsync()

  const large = collect(client, 1)
  await client.subscribeAsync(`${name}/large`, { qos: 1 })
  await client.publishAsync(`${name}/large`, 'x'.repeat(300000), { qos: 1 })
  result.large = (await large).map(([topic, payload, qos, retain]) => [topic, payload.length, qos, retain])

  const will = { topic: `${name}/will`, payload: 'gone', qos: 1, retain: false }
  await client.subscribeAsync(`${name}/will`, { qos: 1 })
  const lost = collect(client, 1)
  const victim = await mqtt.connectAsync(url, { ...options, clientId: `${name}-lost`, will })
  victim.end(true)
  result.will = await lost

  if (version === 5) await more(mqtt, url, name, options, client, result)
  await client.endAsync()
  return result
}
