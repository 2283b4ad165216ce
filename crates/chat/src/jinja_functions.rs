//! Jinja's functions and tests that the engine lacks or has other rules for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minijinja::value::{
    ArgType, Enumerator, Kwargs, Object, ObjectRepr, Rest, Tuple, ValueKind, ValueOrKwargs, from_args,
};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::globals::joiner;

use crate::jinja_source::{ANY_ARGUMENTS, CALL};
use crate::python_value::unsupported;

/// Adds all of them.
pub(crate) fn add(env: &mut Environment) {
    env.remove_global("debug"); // prints the whole context; Jinja has none
    env.add_global("dict", Value::from_object(Dict));
    env.add_function("namespace", namespace);
    env.add_function("joiner", joiner);
    env.add_function("cycler", cycler);
    env.add_function(CALL, call);
    env.add_test("callable", is_callable);
    env.add_test("mapping", |value: &Value| value.kind() == ValueKind::Map && parameters(value).is_none());
    env.add_test("sequence", is_sequence);
    env.add_test("iterable", is_sequence); // the engine's is true of `none`
}

/// `value is sequence`: in Python whatever has a length and items, so strings, mappings and slices.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
}

/// `value is callable`: a function or a macro; in Jinja whatever is undefined, too.
fn is_callable(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Plain => value.as_object().is_some() && value.downcast_object_ref::<Cycler>().is_none(),
        ValueKind::Map => parameters(value).is_some(),
        ValueKind::Undefined => true,
        _ => false,
    }
}

/// The parameters' names of a macro, which looks like a mapping.
fn parameters(value: &Value) -> Option<Vec<Value>> {
    let parameters = value.get_attr("arguments").ok()?;
    let is_macro = parameters.kind() == ValueKind::Seq
        && value.get_attr("caller").is_ok_and(|caller| caller.kind() == ValueKind::Bool)
        && value.to_string().starts_with("<macro ");
    is_macro.then(|| parameters.try_iter().ok().map(Iterator::collect)).flatten()
}

/// Calls a macro, with what it has no parameters for in `varargs` and `kwargs`.
fn call(state: &mut State, callee: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let Some(names) = parameters(callee) else { return callee.call(state, &args) };
    let is_own = |name: &str| !ANY_ARGUMENTS.contains(&name);
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).filter(|name| is_own(name)).collect();
    let (Rest(mut placed), given): (Rest<Value>, Kwargs) = from_args(&args)?;
    let more = placed.split_off(names.len().min(placed.len()));
    let (mut named, mut unknown) = (Vec::new(), Vec::new());
    for name in given.args() {
        let value: Value = given.get(name)?;
        if names.contains(&name) || name == "caller" { &mut named } else { &mut unknown }.push((name, value));
    }
    named.push((ANY_ARGUMENTS[0], Value::from(Tuple::from(more))));
    named.push((ANY_ARGUMENTS[1], Value::from_pairs(unknown)));
    placed.push(Kwargs::from_iter(named).into());
    callee.call(state, &placed)
}

/// `namespace(…)`. Lists in it can be appended to: Jinja's sandbox forbids that, and yet Kimi-K2's templates do it.
fn namespace(args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let (from, named): (Option<Value>, Kwargs) = from_args(&args.into_values())?;
    let mut pairs = Vec::new();
    if let Some(from) = from {
        for key in from.try_iter()? {
            let name = key.as_str().ok_or_else(|| unsupported("names must be strings"))?.to_owned();
            pairs.push((name, from.get_item(&key)?));
        }
    }
    for name in named.args() {
        pairs.push((name.to_owned(), named.get(name)?));
    }
    let queue = |value: Value| match value.kind() {
        ValueKind::Seq if value.len() == Some(0) && !value.is_tuple() => Value::from_object(Queue::default()),
        _ => value,
    };
    let attributes = Value::from_pairs(pairs.into_iter().map(|(name, value)| (name, queue(value))));
    minijinja::functions::namespace(Option::<ValueOrKwargs>::from_value(Some(&attributes))?)
}

/// A list that grows and shrinks.
#[derive(Debug, Default)]
struct Queue(Mutex<Vec<Value>>);

impl Queue {
    fn items(&self) -> MutexGuard<'_, Vec<Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object for Queue {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items().len())
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items().get(key.as_usize()?).cloned()
    }

    fn call_method(self: &Arc<Self>, _: &mut State, method: &str, args: &[Value]) -> Result<Value, Error> {
        match method {
            "append" => {
                let (value,): (&Value,) = from_args(args)?;
                // A list within itself would never end.
                if value.as_object().is_some() && value.as_str().is_none() {
                    return Err(unsupported("only texts and numbers can be appended"));
                }
                self.items().push(value.clone());
                Ok(Value::from(()))
            }
            "pop" => {
                let (index,): (Option<i64>,) = from_args(args)?;
                let mut items = self.items();
                let length = items.len() as i64;
                let index = index.map_or(length - 1, |index| if index < 0 { index + length } else { index });
                if !(0..length).contains(&index) {
                    return Err(unsupported("pop index out of range"));
                }
                Ok(items.remove(index as usize))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// `dict(mapping or pairs, **more)` and `dict.fromkeys(keys, value=None)`.
#[derive(Debug)]
struct Dict;

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State, args: &[Value]) -> Result<Value, Error> {
        let (from, named): (Option<&Value>, Kwargs) = from_args(args)?;
        let mut pairs: Vec<(Value, Value)> = Vec::new();
        match from.filter(|from| !from.is_undefined()) {
            Some(from) if from.kind() == ValueKind::Map => {
                for key in from.try_iter()? {
                    let value = from.get_item(&key)?;
                    pairs.push((key, value));
                }
            }
            Some(from) => {
                for pair in from.try_iter()? {
                    if pair.len() != Some(2) {
                        return Err(unsupported("dict takes a mapping or a list of pairs"));
                    }
                    pairs.push((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?));
                }
            }
            None => {}
        }
        for name in named.args() {
            pairs.push((Value::from(name), named.get(name)?));
        }
        Ok(Value::from_pairs(pairs))
    }

    fn call_method(self: &Arc<Self>, _: &mut State, method: &str, args: &[Value]) -> Result<Value, Error> {
        if method != "fromkeys" {
            return Err(Error::from(ErrorKind::UnknownMethod));
        }
        let (keys, value): (&Value, Option<Value>) = from_args(args)?;
        let value = value.unwrap_or_else(|| Value::from(()));
        Ok(Value::from_pairs(keys.try_iter()?.map(|key| (key, value.clone()))))
    }
}

/// `cycler(*items)`: `next()` gives one after the other, over and over.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    place: AtomicUsize,
}

fn cycler(Rest(items): Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(unsupported("at least one item has to be provided"));
    }
    Ok(Value::from_object(Cycler { items, place: AtomicUsize::new(0) }))
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let place = self.place.load(Ordering::Relaxed);
        (key.as_str() == Some("current")).then(|| self.items[place].clone())
    }

    fn call_method(self: &Arc<Self>, _: &mut State, method: &str, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        let place = self.place.load(Ordering::Relaxed);
        match method {
            "next" => self.place.store((place + 1) % self.items.len(), Ordering::Relaxed),
            "reset" => self.place.store(0, Ordering::Relaxed),
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        }
        Ok(if method == "next" { self.items[place].clone() } else { Value::from(()) })
    }
}
