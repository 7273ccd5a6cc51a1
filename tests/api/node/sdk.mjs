// The real `openai` package against a running server: node sdk.mjs BASE MODEL PICTURE
// Prints one line of JSON per case: {"name", "error"}; error is null when the case holds.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const [base, model, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'EMPTY', maxRetries: 0, timeout: 60_000 });
const hello = [{ role: 'user', content: '你好' }];
const ask = [{ role: 'user', content: '北京今天天气怎么样？' }];
const parameters = {
  type: 'object',
  properties: { city: { type: 'string', description: '城市名称' } },
  required: ['city'],
};
const weather = {
  type: 'function',
  function: { name: 'get_weather', description: '获取指定城市的天气信息', parameters },
};

async function running() {
  const text = await (await fetch(`${base}/metrics`)).text();
  return Number(text.match(/^qqvl_requests_running (\S+)/m)[1]);
}

const cases = {
  async models() {
    const names = [];
    for await (const listed of client.models.list()) names.push(listed.id);
    assert(names.includes(model));
    assert.equal((await client.models.retrieve(model)).id, model);
  },

  async chat() {
    const answer = await client.chat.completions.create({ model, messages: hello, temperature: 0 });
    assert(answer.choices[0].message.content.length > 0);
    assert.equal(answer.choices[0].finish_reason, 'stop');
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  },

  async stream() {
    const whole = await client.chat.completions.create({ model, messages: hello, temperature: 0 });
    const stream = await client.chat.completions.create({
      model, messages: hello, temperature: 0, stream: true, stream_options: { include_usage: true },
    });
    let said = '', last = null, pieces = 0;
    for await (const chunk of stream) {
      said += chunk.choices[0]?.delta?.content ?? '';
      pieces += 1;
      last = chunk;
    }
    assert.equal(said, whole.choices[0].message.content);
    assert(pieces > 3);
    assert.deepEqual(last.choices, []);
    assert.equal(last.usage.completion_tokens, whole.usage.completion_tokens);
  },

  async helper_stream() {
    const seen = [];
    const stream = client.chat.completions.stream({ model, messages: hello, temperature: 0 });
    stream.on('content', (piece) => seen.push(piece));
    const whole = await stream.finalContent();
    assert.equal(seen.join(''), whole);
    assert(seen.length > 1);
  },

  async streamed_tool_call() {
    const stream = await client.chat.completions.create({
      model, messages: ask, tools: [weather], temperature: 0, stream: true,
    });
    const calls = [];
    let reason = null;
    for await (const { choices: [choice] } of stream) {
      for (const piece of choice.delta.tool_calls ?? []) {
        calls[piece.index] ??= { id: piece.id, name: piece.function.name, text: '' };
        calls[piece.index].text += piece.function.arguments ?? '';
      }
      reason = choice.finish_reason ?? reason;
    }
    assert.equal(reason, 'tool_calls');
    assert.equal(calls.length, 1);
    assert(calls[0].id);
    assert.equal(calls[0].name, 'get_weather');
    assert.equal(JSON.parse(calls[0].text).city, '北京');
  },

  async run_tools() {
    const asked = [];
    const runner = client.chat.completions.runTools({
      model, messages: ask, temperature: 0, stream: true,
      tools: [{
        type: 'function',
        function: {
          name: 'get_weather',
          description: '获取指定城市的天气信息',
          parameters,
          parse: JSON.parse,
          function: ({ city }) => {
            asked.push(city);
            return '晴，25度';
          },
        },
      }],
    });
    assert.match(await runner.finalContent(), /晴/);
    assert.deepEqual(asked, ['北京']);
  },

  async forced_tool() {
    const answer = await client.chat.completions.create({
      model, messages: hello, tools: [weather], temperature: 0, max_tokens: 100,
      tool_choice: { type: 'function', function: { name: 'get_weather' } },
    });
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(typeof JSON.parse(call.function.arguments).city, 'string');
  },

  async picture() {
    const answer = await client.chat.completions.create({
      model, temperature: 0,
      messages: [{
        role: 'user',
        content: [
          { type: 'image_url', image_url: { url: `data:image/png;base64,${picture}`, detail: 'auto' } },
          { type: 'text', text: '图里的东西是什么颜色？' },
        ],
      }],
    });
    assert.match(answer.choices[0].message.content, /红/);
  },

  async schema() {
    const properties = { stars: { enum: [1, 2, 3] } };
    const schema = { type: 'object', properties, required: ['stars'], additionalProperties: false };
    const answer = await client.chat.completions.parse({
      model, messages: hello, max_tokens: 60,
      response_format: { type: 'json_schema', json_schema: { name: 'verdict', schema } },
    });
    assert([1, 2, 3].includes(JSON.parse(answer.choices[0].message.content).stars));
  },

  async completions() {
    const answer = await client.completions.create({ model, prompt: ['你好', '你好'], max_tokens: 4, temperature: 0 });
    assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
    assert.equal(answer.choices[0].text, answer.choices[1].text);
  },

  async responses() {
    const whole = await client.responses.create({ model, input: '你好', temperature: 0 });
    assert(whole.output_text.length > 0);
    let said = '';
    for await (const event of await client.responses.create({ model, input: '你好', temperature: 0, stream: true })) {
      if (event.type === 'response.output_text.delta') said += event.delta;
    }
    assert.equal(said, whole.output_text);
  },

  async errors() {
    const with_body = (fields) => client.chat.completions.create({ model, messages: hello, ...fields });
    await assert.rejects(with_body({ model: 'no-such-model' }), (error) =>
      error instanceof OpenAI.NotFoundError && error.code === 'model_not_found');
    await assert.rejects(with_body({ temperature: 9 }), (error) =>
      error instanceof OpenAI.BadRequestError && error.param === 'temperature');
    await assert.rejects(with_body({ prediction: { type: 'content', content: 'x' }, stream: true }), (error) =>
      error instanceof OpenAI.BadRequestError && error.param === 'prediction');
    await assert.rejects(client.embeddings.create({ model, input: 'x' }), OpenAI.NotFoundError);
  },

  async abort() {
    const controller = new AbortController();
    const stream = await client.chat.completions.create(
      { model, messages: hello, stream: true, max_tokens: 1900, ignore_eos: true },
      { signal: controller.signal },
    );
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta?.content) break;
    }
    controller.abort();
    const waiting = client.chat.completions.create(
      { model, messages: hello, max_tokens: 1900, ignore_eos: true, n: 4 }, { timeout: 300 },
    );
    await assert.rejects(waiting, OpenAI.APIConnectionTimeoutError);
    for (let turn = 0; turn < 100 && (await running()) > 0; turn += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.equal(await running(), 0);
  },
};

for (const [name, run] of Object.entries(cases)) {
  let error = null;
  try {
    await run();
  } catch (thrown) {
    error = `${thrown.stack ?? thrown}`;
  }
  console.log(JSON.stringify({ name, error }));
}
